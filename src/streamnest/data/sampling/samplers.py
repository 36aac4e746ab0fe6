"""Samplers whose batches are a pure function of (seed, epoch, position).

A stateful sampler resumes by replay; here the state of a run is a few integers and a resume costs one permutation,
of the corpus or, where that is large, of one of its sections.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from streamnest.data.sampling.durations import Floats, Lengths
from streamnest.data.sampling.mixing import Mixture
from streamnest.data.sampling.schedule import Limits, Schedule
from streamnest.data.sampling.sections import SECTION
from streamnest.errors import UserError
from streamnest.files.plain_data import short

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
        digest: tells one training set from another, when a run is continued.

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
        digest: Callable[[], str] = str,
    ) -> None:
        self.limits = Limits(batch_duration, max_batch_size, num_buckets)
        self._make = partial(Schedule, durations, self.limits, seed, shuffle, mixture, largest=largest)
        self.buckets = self._make(group=world_size)
        self.num_batches = math.ceil(len(self.buckets) / world_size) if num_batches is None else num_batches
        self.rank, self.world_size, self.seed = rank, world_size, seed
        # Once, and only for runs that are saved or continued.
        self._digest = cache(digest)
        self._start, self._given = Position(0, 0), 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[BatchIndex]:
        start, self._given = self._start, 0
        for step in range(start.step, self.num_batches):
            self._given = step + 1 - start.step
            yield BatchIndex(step, self.batch(start.batch + (step - start.step) * self.world_size + self.rank))

    def batch(self, number: int) -> list[int]:
        """Utterances of batch `number` of the stream that all ranks share."""
        return self.buckets.batch(*divmod(number, len(self.buckets)))

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """Where an iterator stands after so many batches; None for what the latest has given."""
        given = self._given if taken is None else taken
        step, batch = self._start.step + given, self._start.batch + given * self.world_size
        return {"step": step, "batch": batch, "group": self.buckets.group, "epoch": len(self.buckets), **self._data()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next iterator continue there, whatever the number of processes was.

        Groups stay as the first run cut them: cutting them anew would repeat and lose utterances in this epoch.

        Raises:
            UserError: for a state that no sampler has.
        """
        for key, lowest, highest in (("step", 0, 1 << 62), ("batch", 0, 1 << 62), ("group", 1, 1 << 16)):
            if type(state.get(key)) is not int or not lowest <= state[key] <= highest:
                raise UserError(f"the checkpoint's place in the data is not valid: {key}={short(state.get(key))}")
        if state["group"] != self.buckets.group:
            self.buckets = self._make(group=state["group"])
        data = self._data()
        # Checkpoints from before there were digests say nothing about these.
        changed = [_WORDS[key] for key in data if state.get(key, data[key]) != data[key]]
        if state["epoch"] != len(self.buckets):
            changed.append("batches in an epoch")
        if changed:
            log.warning(
                "the data or the limits of batches have changed since the checkpoint (%s): this epoch may repeat or "
                "miss utterances",
                ", ".join(changed),
            )
        self._start, self._given = Position(state["step"], state["batch"]), 0

    def _data(self) -> dict[str, Any]:
        """Summarizes what batches are made of, to compare it on resume."""
        return {"seed": self.seed, "limits": list(self.limits), "data": self._digest()}


# Of what a state is compared with.
_WORDS = {"seed": "data.seed", "limits": "limits of batches", "data": "ids or durations of the training set"}


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
