"""A loader whose place in the data does not depend on how many processes load it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from streamnest.data.batch import Batch
from streamnest.data.sampling.samplers import BucketBatchSampler


class ResumableLoader(DataLoader[Batch]):
    """Whole batches of a sampler; its state is the sampler's after the batches that were handed out.

    A batch is a function of its index alone, so that nothing of the workers, who are ahead, needs to be kept.
    """

    _taken = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._taken = 0
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the data; empty for a sampler that has none, of validation."""
        return self.sampler.state_dict(self._taken) if isinstance(self.sampler, BucketBatchSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next iterator continue at a place, also one that `StatefulDataLoader` of torchdata noted down."""
        if isinstance(self.sampler, BucketBatchSampler):
            self._taken = 0
            self.sampler.load_state_dict(_place(state, self.sampler.world_size))


def _place(state: dict[str, Any], world_size: int) -> dict[str, Any]:
    """The sampler's state in that of a loader; checkpoints from before `ResumableLoader` hold that of torchdata."""
    if "step" in state:
        return state
    # With workers it is in a snapshot, from before some of the batches.
    since = state.get("_steps_since_snapshot", 0)
    main = state["_snapshot"]["_main_snapshot"] if "_snapshot" in state else state
    place = {**main["_index_sampler_state"], **(main["_sampler_iter_state"] or {})}
    return {**place, "step": place["step"] + since, "batch": place["batch"] + since * world_size}
