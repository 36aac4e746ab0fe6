"""Ends training when a budget in hours of audio is consumed."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning import Callback


class StopAtBudget(Callback):
    """Stops after the first step that reaches a number of hours of audio, counted over all processes.

    Args:
        hours: hours of audio to train on.
    """

    def __init__(self, hours: float) -> None:
        self.hours = hours

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after a complete step; the processes agree, because the count is a sum over all of them."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and is_consumed(pl_module, self.hours):
            trainer.should_stop = True


def is_consumed(model: Any, hours: float) -> bool:
    """True if training has consumed this much audio."""
    seconds: float = model.seconds_on_host
    # As `is_complete` compares them: 3600 * 0.079 is at most 284.4, but 284.4 / 3600 is less than 0.079.
    return seconds / 3600 >= hours
