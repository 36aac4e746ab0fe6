"""Samplers whose batches are a pure function of (seed, epoch, position).

A stateful sampler resumes by replay; here the state of a run is a few integers and a resume costs one permutation,
of the corpus or, where that is large, of one of its sections.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from streamnest.data.mixing import Mixture
from streamnest.data.schedule import Limits, Schedule
from streamnest.data.sections import SECTION
from streamnest.data.stretches import Floats, Lengths

log = logging.getLogger(__name__)


class BatchIndex(NamedTuple):
    """What a sampler asks a dataset for.

    Attributes:
        step: number of the batch, the same on every rank; part of the key of every random draw.
        indices: of the utterances; empty where a rank has nothing left but must keep in step with the others.
    """

    step: int
    indices: list[int]


class Position(NamedTuple):
    """The next step of a run and the next batch of the stream; each step takes `world_size` batches."""

    step: int
    batch: int


class BucketBatchSampler(Sampler[BatchIndex]):
    """Endless duration-bucketed batches for training.

    The batches of all epochs and ranks form one stream: at each step every rank takes its own of the next `world_size`
    batches, which come from one bucket. Within an epoch every utterance occurs exactly once; a corpus of more than one
    section (see `Sections`) is heard a section after the other, in another order in each epoch. Two processes with
    `max_batch_size=b` see at each step what one with `2b` sees, as long as that limit binds and not `batch_duration`.

    Args:
        durations: `(N,)` seconds, an array or `Lengths`.
        batch_duration: most padded seconds in a batch (longest utterance times size). A longer utterance gets a batch
            to itself.
        max_batch_size: most utterances in a batch.
        num_buckets: number of buckets, of equal total duration.
        num_batches: steps in the whole run: the length; None for those of one epoch.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
        shuffle: off for batches sorted by duration within each section, the same in every epoch.
        mixture: of sources; an epoch is then what it says, and not every utterance once.
        largest: utterances of a section.

    Raises:
        UserError: for no utterances, or limits that admit none.
    """

    def __init__(
        self,
        durations: Lengths,
        batch_duration: float,
        max_batch_size: int,
        num_buckets: int,
        num_batches: int | None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        mixture: Mixture | None = None,
        largest: int = SECTION,
    ) -> None:
        limits = Limits(batch_duration, max_batch_size, num_buckets)
        self._make = partial(Schedule, durations, limits, seed, shuffle, mixture, largest=largest)
        self.buckets = self._make(group=world_size)
        self.num_batches = math.ceil(len(self.buckets) / world_size) if num_batches is None else num_batches
        self.rank, self.world_size = rank, world_size
        self._start = Position(0, 0)
        self._stream: _Stream | None = None

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[BatchIndex]:
        self._stream = _Stream(self, self._start)
        return self._stream

    def batch(self, number: int) -> list[int]:
        """Utterances of batch `number` of the stream that all ranks share."""
        return self.buckets.batch(*divmod(number, len(self.buckets)))

    def state_dict(self) -> dict[str, int]:
        """Where the latest iterator stands."""
        at = self._stream.at if self._stream else self._start
        return {"step": at.step, "batch": at.batch, "group": self.buckets.group, "epoch": len(self.buckets)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next iterator continue there, whatever the number of processes was.

        Groups stay as the first run cut them: cutting them anew would repeat and lose utterances in this epoch.
        """
        if state["group"] != self.buckets.group:
            self.buckets = self._make(group=state["group"])
        if state["epoch"] != len(self.buckets):
            log.warning("the data or the limits of batches have changed: this epoch may repeat or miss utterances")
        self._start, self._stream = Position(state["step"], state["batch"]), None


class _Stream(Iterator[BatchIndex]):
    """One rank's walk; an object and not a generator, so that a dataloader can save and restore its place."""

    def __init__(self, sampler: BucketBatchSampler, start: Position) -> None:
        self.sampler, self.at = sampler, start

    def __next__(self) -> BatchIndex:
        sampler, (step, batch) = self.sampler, self.at
        if step >= sampler.num_batches:
            raise StopIteration
        self.at = Position(step + 1, batch + sampler.world_size)
        return BatchIndex(step, sampler.batch(batch + sampler.rank))

    def state_dict(self) -> dict[str, int]:
        return {"step": self.at.step, "batch": self.at.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = Position(state["step"], state["batch"])


class OnePassSampler(Sampler[BatchIndex]):
    """Every utterance once, sorted by duration, at step 0: for validation.

    All ranks get the same number of batches, the last of some being empty: processes that disagree about it deadlock.

    Args:
        durations: `(N,)` seconds.
        batch_duration: most padded seconds in a batch.
        max_batch_size: most utterances in a batch.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, durations: Floats, batch_duration: float, max_batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._batches = _fill(np.asarray(durations, np.float64), batch_duration, max_batch_size)
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return math.ceil(len(self._batches) / self.world_size)

    def __iter__(self) -> Iterator[BatchIndex]:
        for number in range(self.rank, len(self) * self.world_size, self.world_size):
            yield BatchIndex(0, self._batches[number] if number < len(self._batches) else [])


def _fill(durations: Floats, batch_duration: float, max_batch_size: int) -> list[list[int]]:
    """Sorted utterances in batches as full as the limits allow."""
    batches: list[list[int]] = []
    for index in np.argsort(durations, kind="stable").tolist():
        size = len(batches[-1]) + 1 if batches else math.inf
        if size > max_batch_size or durations[index] * size > batch_duration:
            batches.append([])
        batches[-1].append(index)
    return batches
