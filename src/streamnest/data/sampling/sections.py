"""Sections of a corpus whose batches are arranged one section at a time, which bounds memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamnest.data.sampling.durations import Durations, Floats
from streamnest.randomness import numpy_generator

Ints = NDArray[np.int64]

# Maximum cuts of a section: 3,500 h of 12 s each, which most corpora do not exceed, and 25 MB to arrange.
SECTION = 2**20
# Consecutive cuts that stay together, as in a shard: a section has a thousand such pieces from the whole corpus.
_PIECE = 1024
# Minimum number of pieces of each source in a section, if the source has as many cuts.
_FEWEST = 4


class Sections:
    """Assignment of utterances to sections: a pure function of the seed, the same in every epoch.

    Each source is divided into pieces of consecutive utterances, which are distributed evenly and at random over the
    sections. A corpus of one section keeps its order.

    Args:
        sizes: number of utterances of each source; sources are concatenated.
        seed: seed of the assignment.
        largest: maximum number of utterances in a section, exceeded by at most one piece of each source.
    """

    def __init__(self, sizes: Sequence[int], seed: int, largest: int = SECTION) -> None:
        self._sizes, self._number = sizes, max(1, -(-sum(sizes) // largest))
        self._piece = [max(1, min(_PIECE, size // (_FEWEST * self._number))) for size in sizes]
        self._order = [self._distribute(source, seed) for source in range(len(sizes))]

    def __len__(self) -> int:
        return self._number

    def spans(self, section: int) -> list[list[tuple[int, int]]]:
        """Returns the half-open spans of utterances in a section, for each source, in order."""
        starts = np.cumsum([0, *self._sizes]).tolist()
        spans = []
        for order, piece, start, size in zip(self._order, self._piece, starts, self._sizes):
            first, last = len(order) * section // self._number, len(order) * (section + 1) // self._number
            runs = _runs(np.sort(order[first:last]))
            spans.append([(start + a * piece, start + min(b * piece, size)) for a, b in runs])
        return spans

    def _distribute(self, source: int, seed: int) -> NDArray[np.int32]:
        pieces = np.arange(-(-self._sizes[source] // self._piece[source]), dtype=np.int32)
        return numpy_generator(seed, source, "sections").permutation(pieces)


def _runs(numbers: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Returns the half-open spans of consecutive numbers in a sorted array."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class CorpusSection:
    """The utterances of a section.

    Attributes:
        utterances: indices in the corpus, `(N,)`, sources concatenated.
        sizes: number of utterances of each source.
        durations: `(N,)` seconds.
    """

    def __init__(self, sections: Sections, number: int, durations: Durations) -> None:
        spans = sections.spans(number)
        self.sizes = [sum(stop - first for first, stop in source) for source in spans]
        flat = [span for source in spans for span in source]
        numbers = [np.arange(*span, dtype=np.int32) for span in flat]
        self.utterances: NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *numbers])
        self.durations: Floats = np.concatenate([np.zeros(0), *(durations[slice(*span)] for span in flat)])
