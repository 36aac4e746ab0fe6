"""Training of tasks whose loss is a sum over what is decided: frames, utterances."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.downstream.base import DownstreamTask

Item = TypeVar("Item")


class SupervisedTask(DownstreamTask):
    """A task that defines `loss_of`; see `DownstreamTask` for the arguments."""

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Nats and number of decisions, summed over a batch, both 0-dim.

        Args:
            encoded: `(B, T', d)`.
            valid: `(B,)` frames.
            batch: with labels.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Nats per decision over all ranks; a batch without labels gives 0."""
        encoded, valid = self.encode(batch, batch.step)
        loss, count = self.loss_of(encoded, valid, batch)
        sums = self._over_ranks(torch.stack([loss.detach(), count, torch.full_like(loss, batch.seconds)]))
        self.seconds_seen += sums[2]
        size: dict[str, Any] = {"batch_size": len(batch.ids)}
        if sums[1] > 0:
            self.log("train/loss", sums[0] / sums[1], **size)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], **size)  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_seen / 3600).float(), **size)
        # DDP averages gradients over ranks: times their number, so that each decision weighs the same.
        return loss * self.trainer.world_size / sums[1].clamp_min(1)


def of_all_ranks(items: list[Item]) -> list[Item]:
    """What every process has, in the order of the ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]
    return items
