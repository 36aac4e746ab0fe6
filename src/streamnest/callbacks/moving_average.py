"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def averages_first(callbacks: Sequence[Callback]) -> list[Callback]:
    """Returns callbacks in an order in which the average includes a step before another callback saves that step."""
    return sorted(callbacks, key=lambda callback: not isinstance(callback, WeightAveraging))


@contextmanager
def averaged_weights(trainer: L.Trainer, model: L.LightningModule) -> Iterator[None]:
    """Gives a model the averaged weights for a while, as in validations, if training keeps an average of them."""
    callbacks = getattr(trainer, "callbacks", ())
    averages = [c for c in callbacks if isinstance(c, WeightAveraging) and c._average_model is not None]
    for average in averages:
        average._swap_models(model)
    try:
        yield
    finally:
        for average in averages:
            average._swap_models(model)


class MovingAverage(WeightAveraging):
    """Lightning's `WeightAveraging` with an exponential moving average whose decay rises from update to update.

    After `n` updates the decay is `(1 + n) / (10 + n)`, but at most `decay`: the average covers about a ninth of the
    updates so far, until it covers the last `1 / (1 - decay)`. A constant decay would keep much of the initial weights
    in a short run: half of them with 0.999 after 700 updates. Validations and checkpoints have the averaged weights; a
    checkpoint keeps the current ones as well, to continue from. Buffers (counts, corpus statistics) are not averaged.

    Args:
        decay: largest decay.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(use_buffers=False, avg_fn=self._average)
        self.decay = decay

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint, which is that of earlier versions."""
        return "EMAWeightAveraging"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the current weights, because a signal during the last validation makes `StopOnSignal` save them now."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copies the averages into the model, for its use after training."""
        super().on_train_end(trainer, pl_module)

    def _average(self, averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        """Returns the next average; `updates` stays a tensor, because reading its value would wait for the device."""
        count = torch.as_tensor(updates, dtype=torch.float32, device=current.device)
        decay = ((1 + count) / (10 + count)).clamp(max=self.decay)
        return torch.lerp(current, averaged, decay.to(current.dtype))
