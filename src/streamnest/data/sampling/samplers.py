"""Samplers whose batches are a pure function of (seed, epoch, position).

A stateful sampler resumes by replay. Here, the state of a run is a few integers, and a resume costs one permutation of
the corpus or, if it is large, of one of its sections.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from streamnest.data.sampling.durations import Durations, Floats
from streamnest.data.sampling.mixing import Mixture
from streamnest.data.sampling.schedule import BatchLimits, Schedule
from streamnest.data.sampling.sections import SECTION
from streamnest.errors import UserError
from streamnest.files.plain_data import short

log = logging.getLogger(__name__)


class BatchIndex(NamedTuple):
    """Request of a sampler to a dataset.

    Attributes:
        step: step of the batch, the same on every rank; part of the key of all random choices.
        indices: indices of the utterances; empty if a rank has none left but needs as many batches as the others.
    """

    step: int
    indices: list[int]


class Position(NamedTuple):
    """Next step of a run and next batch of the stream; each step consumes `world_size` batches."""

    step: int
    batch: int


class BucketBatchSampler(Sampler[BatchIndex]):
    """Endless duration-bucketed batches for training.

    The batches of all epochs and ranks form one stream: at each step, every rank takes one of the next `world_size`
    batches, which come from one bucket. Within an epoch, every utterance occurs exactly once. The sections of a large
    corpus (see `Sections`) follow each other, in another order in each epoch. At each step, two processes with
    `max_batch_size=b` get the utterances of one process with `2b`, unless `batch_duration` limits the batch.

    Args:
        durations: `(N,)` seconds, an array or `Durations`.
        batch_duration: maximum padded seconds in a batch (longest utterance times size). A longer utterance gets a
            batch of its own.
        max_batch_size: maximum number of utterances in a batch.
        num_buckets: number of buckets of equal total duration.
        num_batches: number of steps in the whole run; None for one epoch.
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of processes.
        shuffle: False for batches sorted by duration within each section, the same in every epoch.
        mixture: mixture of sources, which decides how often each utterance occurs in an epoch; None for once.
        largest: maximum number of utterances in a section.
        digest: returns a checksum of the training set, which is compared on resume.

    Raises:
        UserError: if there are no utterances or a limit is not positive.
    """

    def __init__(
        self,
        durations: Durations,
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
        self.limits = BatchLimits(batch_duration, max_batch_size, num_buckets)
        self._make = partial(Schedule, durations, self.limits, seed, shuffle, mixture, largest=largest)
        self.buckets = self._make(group=world_size)
        self.num_batches = math.ceil(len(self.buckets) / world_size) if num_batches is None else num_batches
        self.rank, self.world_size, self.seed = rank, world_size, seed
        # Computed once, and only for runs that are saved or resumed.
        self._digest = cache(digest)
        self._start, self._num_returned = Position(0, 0), 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[BatchIndex]:
        start, self._num_returned = self._start, 0
        for step in range(start.step, self.num_batches):
            self._num_returned = step + 1 - start.step
            yield BatchIndex(step, self.batch(start.batch + (step - start.step) * self.world_size + self.rank))

    def batch(self, number: int) -> list[int]:
        """Returns the utterances of batch `number` of the stream that all ranks share."""
        return self.buckets.batch(*divmod(number, len(self.buckets)))

    def state_dict(self, num_batches: int | None = None) -> dict[str, Any]:
        """Returns the position after `num_batches` batches; None for those that the latest iterator has returned."""
        done = self._num_returned if num_batches is None else num_batches
        step, batch = self._start.step + done, self._start.batch + done * self.world_size
        return {"step": step, "batch": batch, "group": self.buckets.group, "epoch": len(self.buckets), **self._data()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iterator continue at a stored position, which may be from another number of processes.

        The groups of the first run are kept: other groups would repeat and lose utterances in this epoch.

        Raises:
            UserError: if the state is not valid.
        """
        if "piece_s" in state:
            raise UserError(
                f"the checkpoint was trained with data.piece_s={short(state['piece_s'])}, and this run trains on "
                "utterances: give the same value, or start from its weights with init_from"
            )
        for key, lowest, highest in (("step", 0, 1 << 62), ("batch", 0, 1 << 62), ("group", 1, 1 << 16)):
            if type(state.get(key)) is not int or not lowest <= state[key] <= highest:
                raise UserError(
                    f"the position in the data is not valid in the checkpoint: {key}={short(state.get(key))}"
                )
        if state["group"] != self.buckets.group:
            self.buckets = self._make(group=state["group"])
        data = self._data()
        # The oldest checkpoints have no digests.
        changed = [_NAMES[key] for key in data if state.get(key, data[key]) != data[key]]
        if state["epoch"] != len(self.buckets):
            changed.append("batches in an epoch")
        if changed:
            log.warning(
                "the data or the limits of batches have changed since the checkpoint (%s): this epoch may repeat or "
                "miss utterances",
                ", ".join(changed),
            )
        self._start, self._num_returned = Position(state["step"], state["batch"]), 0

    def _data(self) -> dict[str, Any]:
        """Returns the inputs of the batches, which are compared on resume."""
        return {"seed": self.seed, "limits": list(self.limits), "data": self._digest()}


# Names of the compared values in messages.
_NAMES = {"seed": "data.seed", "limits": "limits of batches", "data": "ids or durations of the training set"}


class OnePassSampler(Sampler[BatchIndex]):
    """Every utterance once, sorted by duration, at step 0: for validation.

    All ranks get the same number of batches, some of which may be empty at the end: processes with different numbers of
    batches would deadlock.

    Args:
        durations: `(N,)` seconds.
        batch_duration: maximum padded seconds in a batch.
        max_batch_size: maximum number of utterances in a batch.
        rank: rank of this process.
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
    """Divides sorted utterances into batches that are as full as the limits allow."""
    batches: list[list[int]] = []
    for index in np.argsort(durations, kind="stable").tolist():
        size = len(batches[-1]) + 1 if batches else math.inf
        if size > max_batch_size or durations[index] * size > batch_duration:
            batches.append([])
        batches[-1].append(index)
    return batches
