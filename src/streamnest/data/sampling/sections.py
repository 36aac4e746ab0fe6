"""Parts of a corpus that are arranged one after the other, so that arranging needs memory for one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamnest.data.sampling.durations import Floats, Lengths
from streamnest.randomness import numpy_generator

Ints = NDArray[np.int64]

# Cuts a section: 3,500 h of 12 s each, so that most corpora are one, and 25 MB to arrange.
SECTION = 2**20
# Neighbouring cuts that stay together, as in a shard: a section has a thousand of these from all over the corpus.
_PIECE = 1024
# Pieces of each source in a section, if it has as many cuts.
_FEWEST = 4


class Sections:
    """Which utterances are in which section: a pure function of the seed, the same in every epoch.

    Each source is cut into pieces of neighbours that are dealt to the sections at random, evenly. A corpus of one
    section is in its own order.

    Args:
        sizes: utterances of each source, which are in a row.
        seed: of the choice.
        largest: utterances of a section at most, give or take a piece of each source.
    """

    def __init__(self, sizes: Sequence[int], seed: int, largest: int = SECTION) -> None:
        self._sizes, self._number = sizes, max(1, -(-sum(sizes) // largest))
        self._piece = [max(1, min(_PIECE, size // (_FEWEST * self._number))) for size in sizes]
        self._order = [self._deal(source, seed) for source in range(len(sizes))]

    def __len__(self) -> int:
        return self._number

    def stretches(self, section: int) -> list[list[tuple[int, int]]]:
        """First and end of the runs of utterances in a section, for each source, in order."""
        starts = np.cumsum([0, *self._sizes]).tolist()
        found = []
        for order, piece, start, size in zip(self._order, self._piece, starts, self._sizes):
            first, last = len(order) * section // self._number, len(order) * (section + 1) // self._number
            runs = _runs(np.sort(order[first:last]))
            found.append([(start + a * piece, start + min(b * piece, size)) for a, b in runs])
        return found

    def _deal(self, source: int, seed: int) -> NDArray[np.int32]:
        pieces = np.arange(-(-self._sizes[source] // self._piece[source]), dtype=np.int32)
        return numpy_generator(seed, source, "sections").permutation(pieces)


def _runs(places: NDArray[np.int32]) -> list[tuple[int, int]]:
    """First and end of the runs of consecutive numbers in a sorted array."""
    parts = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class Section:
    """The utterances of a section.

    Attributes:
        utterances: their numbers in the corpus, `(N,)`, sources in a row.
        sizes: how many there are of each source.
        durations: `(N,)` seconds.
    """

    def __init__(self, sections: Sections, number: int, lengths: Lengths) -> None:
        runs = sections.stretches(number)
        self.sizes = [sum(stop - first for first, stop in of_source) for of_source in runs]
        flat = [run for of_source in runs for run in of_source]
        numbers = [np.arange(*run, dtype=np.int32) for run in flat]
        self.utterances: NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *numbers])
        self.durations: Floats = np.concatenate([np.zeros(0), *(lengths[slice(*run)] for run in flat)])
