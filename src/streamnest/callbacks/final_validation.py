"""Repeats the validation after the last step of a run that was killed within it."""

from __future__ import annotations

import lightning as L
from lightning import Callback


class FinalValidation(Callback):
    """Runs the validation after the last step as part of training, without another step.

    For a checkpoint that has the whole length of its run. Lightning would skip training without calling any callback,
    so that the validation could neither use averaged weights nor be saved in `last.ckpt`. It has to follow the
    callbacks whose `on_train_start` prepares for a validation.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Removes the limit of steps, which has been reached, until training has started."""
        if stage == "fit":
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validates, and ends training before its first step."""
        loop = trainer.fit_loop.epoch_loop
        loop.max_steps = self._max_steps
        loop.val_loop.restarting = False  # begins with the first batch
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        trainer.should_stop = True
