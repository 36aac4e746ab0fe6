"""Which batches there are, in every epoch, of a corpus of any size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.sampling.buckets import Arrangement, Buckets
from streamnest.data.sampling.durations import Lengths
from streamnest.data.sampling.mixing import Mixture, Slots
from streamnest.data.sampling.sections import SECTION, Ints, Section, Sections
from streamnest.randomness import numpy_generator


class Limits(NamedTuple):
    """See `Buckets`."""

    batch_duration: float
    max_batch_size: int
    num_buckets: int


class _Part(NamedTuple):
    """What is the same in every epoch of one section."""

    number: int
    utterances: NDArray[np.int32]
    slots: Slots | None
    buckets: Buckets


class Schedule:
    """The batches of all epochs: in each, the sections of a corpus in random order, and so the batches of a section.

    A batch is a pure function of (seed, epoch, place), and costs the arrangement of one section, which is kept until
    another is asked for. So memory is that of a section, however large the corpus is; `len` is counted once, at start,
    section after section.

    Args:
        lengths: `(N,)` seconds.
        limits: of batches.
        seed: of the order.
        shuffle: off for the sections in a row, each sorted by duration, the same in every epoch.
        mixture: of sources; an epoch is then what it says, and not every utterance once.
        group: batches that follow each other and come from one bucket: one for each process.
        largest: utterances of a section.

    Raises:
        UserError: for no utterances, or limits that admit none.
    """

    def __init__(
        self,
        lengths: Lengths,
        limits: Limits,
        seed: int,
        shuffle: bool = True,
        mixture: Mixture | None = None,
        group: int = 1,
        largest: int = SECTION,
    ) -> None:
        self.lengths, self.limits, self.seed, self.shuffle = lengths, limits, seed, shuffle
        self.mixture, self.group = mixture, group
        self._sections = Sections(mixture.sizes if mixture else [len(lengths)], seed, largest)
        self._kept: _Part | None = None
        self._arranged: tuple[int, int, Arrangement] | None = None
        self._counts: Ints = np.array([len(self._part(i).buckets) for i in range(len(self._sections))], np.int64)

    def __len__(self) -> int:
        """Batches in an epoch, of all processes together."""
        return int(self._counts.sum())

    def batch(self, epoch: int, place: int) -> list[int]:
        """Utterances of one batch."""
        order = self._order(epoch)
        ends = np.cumsum(self._counts[order])
        at = int(np.searchsorted(ends, place, side="right"))
        section = int(order[at])
        return self._arrange(epoch, section).batch(place - int(ends[at] - self._counts[section]))

    def _order(self, epoch: int) -> Ints:
        sections = np.arange(len(self._sections))
        return numpy_generator(self.seed, epoch, "sections").permutation(sections) if self.shuffle else sections

    def _arrange(self, epoch: int, section: int) -> Arrangement:
        if self._arranged is None or self._arranged[:2] != (epoch, section):
            # Let go of before the next is made.
            self._arranged = None
            part = self._part(section)
            rng = numpy_generator(self.seed, epoch, "batches", section) if self.shuffle else None
            arranged = part.buckets.arrange(rng)
            order = arranged.order if part.slots is None else part.slots.utterances(self.seed, epoch)[arranged.order]
            self._arranged = epoch, section, arranged._replace(order=part.utterances[order])
        return self._arranged[2]

    def _part(self, number: int) -> _Part:
        if self._kept is None or self._kept.number != number:
            self._kept = None
            section = Section(self._sections, number, self.lengths)
            slots = self.mixture.slots(section.durations, section.sizes) if self.mixture else None
            durations = section.durations if slots is None else slots.durations
            buckets = Buckets(durations, *self.limits, group=self.group)
            self._kept = _Part(number, section.utterances, slots, buckets)
        return self._kept
