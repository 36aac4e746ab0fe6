"""Training of tasks whose loss is a sum over decisions, such as tokens, frames or utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder.layer_outputs import recorded

# Weight of each term and its nats summed over a batch, 0-dim, by the name of its metric.
LossTerms = dict[str, tuple[float, Tensor]]
Item = TypeVar("Item")


class SupervisedTask(DownstreamTask):
    """Base of tasks that define `loss_of`; the arguments are those of `DownstreamTask`."""

    # Indices of the encoder layers whose outputs `loss_terms` gets as well.
    supervised_layers: Sequence[int] = ()

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns nats and number of decisions, summed over a batch, both 0-dim.

        Args:
            encoded: `(B, T', d)`.
            valid: `(B,)` number of valid frames.
            batch: batch with supervision.
        """
        raise NotImplementedError

    def loss_terms(
        self, encoded: Tensor, valid: Tensor, batch: Batch, layers: list[Tensor], offline: Tensor | None = None
    ) -> tuple[LossTerms, Tensor]:
        """Returns the terms of the training loss, and the number of decisions; by default the term `loss` only.

        Args:
            encoded: `(views * B, T', d)`.
            valid: `(views * B,)` number of valid frames.
            batch: batch with supervision.
            layers: outputs of `supervised_layers`, of the shape of `encoded`.
            offline: representation of the offline branch, of the shape of `encoded`; None without dual mode.
        """
        loss, count = self.loss_of(encoded, valid, batch)
        return {"loss": (1.0, loss)}, count

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns nats per decision over all ranks; 0 for a batch without supervision."""
        with recorded([self.encoder.layers[index] for index in self.supervised_layers]) as layers:
            encoded, valid, offline = self.encode_both(batch)
        # Layers of the streaming branch, which runs first.
        delay = self.encoder.context.delay
        layers = [x[:, delay : delay + encoded.shape[1]] for x in layers[: len(self.supervised_layers)]]
        # Tasks without dual mode need not take the last argument.
        terms, count = self.loss_terms(encoded, valid, batch, layers, *(() if offline is None else (offline,)))
        loss = torch.stack([weight * nats for weight, nats in terms.values()]).sum()
        parts = [nats.detach() for _, nats in terms.values()]
        *nats, decisions, seconds = self._over_ranks(torch.stack([*parts, count, torch.full_like(loss, batch.seconds)]))
        self._add_seconds(batch, seconds)
        size: dict[str, Any] = {"batch_size": len(batch.ids)}
        if decisions > 0:
            self.log_dict({f"train/{name}": total / decisions for name, total in zip(terms, nats)}, **size)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], **size)  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_seen / 3600).float(), **size)
        # DDP averages gradients over ranks; the factor makes each decision count the same.
        return loss * self.trainer.world_size / decisions.clamp_min(1)


def of_all_ranks(items: list[Item]) -> list[Item]:
    """Gathers the items of all processes, in the order of the ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]
    return items
