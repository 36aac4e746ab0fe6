"""Training of tasks whose loss is a sum over decisions, such as tokens, frames or utterances."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.downstream.base import DownstreamTask

Item = TypeVar("Item")


class SupervisedTask(DownstreamTask):
    """Base of tasks that define `loss_of`; the arguments are those of `DownstreamTask`."""

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns nats and number of decisions, summed over a batch, both 0-dim.

        Args:
            encoded: `(B, T', d)`.
            valid: `(B,)` number of valid frames.
            batch: batch with supervision.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns nats per decision over all ranks; 0 for a batch without supervision."""
        encoded, valid = self.encode(batch, batch.step)
        loss, count = self.loss_of(encoded, valid, batch)
        sums = self._over_ranks(torch.stack([loss.detach(), count, torch.full_like(loss, batch.seconds)]))
        self.seconds_seen += sums[2]
        size: dict[str, Any] = {"batch_size": len(batch.ids)}
        if sums[1] > 0:
            self.log("train/loss", sums[0] / sums[1], **size)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], **size)  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_seen / 3600).float(), **size)
        # DDP averages gradients over ranks; the factor makes each decision count the same.
        return loss * self.trainer.world_size / sums[1].clamp_min(1)


def of_all_ranks(items: list[Item]) -> list[Item]:
    """Gathers the items of all processes, in the order of the ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]
    return items
