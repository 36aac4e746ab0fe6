"""The batches of every epoch of a corpus of any size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.sampling.buckets import Arrangement, Buckets
from streamnest.data.sampling.durations import Durations
from streamnest.data.sampling.mixing import Mixture, Slots
from streamnest.data.sampling.sections import SECTION, CorpusSection, Ints, Sections
from streamnest.randomness import numpy_generator


class BatchLimits(NamedTuple):
    """Limits of batches, see `Buckets`."""

    batch_duration: float
    max_batch_size: int
    num_buckets: int


class _SectionBatches(NamedTuple):
    """Properties of a section that are the same in every epoch."""

    number: int
    utterances: NDArray[np.int32]
    slots: Slots | None
    buckets: Buckets


class Schedule:
    """The batches of all epochs: in each epoch, the sections of a corpus and the batches of a section in random order.

    A batch is a pure function of (seed, epoch, position). It costs the arrangement of one section, which is cached
    until another section is needed, so that the memory does not grow with the corpus. The batches are counted once, at
    the start, section by section.

    Args:
        durations: `(N,)` seconds.
        limits: limits of batches.
        seed: seed of the order.
        shuffle: False for sections in their order, each sorted by duration, the same in every epoch.
        mixture: mixture of sources, which decides how often each utterance occurs in an epoch; None for once.
        group: number of consecutive batches that come from one bucket, one for each process.
        largest: maximum number of utterances in a section.

    Raises:
        UserError: if there are no utterances or a limit is not positive.
    """

    def __init__(
        self,
        durations: Durations,
        limits: BatchLimits,
        seed: int,
        shuffle: bool = True,
        mixture: Mixture | None = None,
        group: int = 1,
        largest: int = SECTION,
    ) -> None:
        self.durations, self.limits, self.seed, self.shuffle = durations, limits, seed, shuffle
        self.mixture, self.group = mixture, group
        self._sections = Sections(mixture.sizes if mixture else [len(durations)], seed, largest)
        self._kept: _SectionBatches | None = None
        self._arranged: tuple[int, int, Arrangement] | None = None
        self._counts: Ints = np.array([len(self._part(i).buckets) for i in range(len(self._sections))], np.int64)

    def __len__(self) -> int:
        """Number of batches in an epoch, of all processes together."""
        return int(self._counts.sum())

    def batch(self, epoch: int, position: int) -> list[int]:
        """Returns the utterances of a batch."""
        order = self._order(epoch)
        ends = np.cumsum(self._counts[order])
        at = int(np.searchsorted(ends, position, side="right"))
        section = int(order[at])
        return self._arrange(epoch, section).batch(position - int(ends[at] - self._counts[section]))

    def _order(self, epoch: int) -> Ints:
        sections = np.arange(len(self._sections))
        return numpy_generator(self.seed, epoch, "sections").permutation(sections) if self.shuffle else sections

    def _arrange(self, epoch: int, section: int) -> Arrangement:
        if self._arranged is None or self._arranged[:2] != (epoch, section):
            # Frees the memory before the next arrangement is made.
            self._arranged = None
            part = self._part(section)
            rng = numpy_generator(self.seed, epoch, "batches", section) if self.shuffle else None
            arranged = part.buckets.arrange(rng)
            order = arranged.order if part.slots is None else part.slots.utterances(self.seed, epoch)[arranged.order]
            self._arranged = epoch, section, arranged._replace(order=part.utterances[order])
        return self._arranged[2]

    def _part(self, number: int) -> _SectionBatches:
        if self._kept is None or self._kept.number != number:
            self._kept = None
            section = CorpusSection(self._sections, number, self.durations)
            slots = self.mixture.slots(section.durations, section.sizes) if self.mixture else None
            durations = section.durations if slots is None else slots.durations
            buckets = Buckets(durations, *self.limits, group=self.group)
            self._kept = _SectionBatches(number, section.utterances, slots, buckets)
        return self._kept
