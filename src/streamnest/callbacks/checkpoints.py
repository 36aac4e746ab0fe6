"""Checkpoints of a run: the best, the last, and those at intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """`ModelCheckpoint` that saves in training only after complete steps; the arguments are the same.

    Checkpoints do not contain accumulated gradients, so a run saved in the middle of a step would lose them.
    """

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint, which is that of earlier versions."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if a checkpoint is due and the step is complete."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


class BestAndLast(ModelCheckpoint):
    """`ModelCheckpoint` that saves `last.ckpt` after each validation, and validates after the last step of a run.

    `ModelCheckpoint` saves it only after a validation that is among the best. The arguments are those of
    `ModelCheckpoint`; `dirpath` is required.
    """

    _ends = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets that an earlier run of this object has ended."""
        super().on_train_start(trainer, pl_module)
        self._ends = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the step of the loggers, which Lightning restores one too low after a validation between intervals."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the last step of the run, unless `StopOnSignal` has saved it, in case its validation is interrupted.

        A run that must end in the middle of a step, such as by `trainer.max_time`, ends after it: checkpoints do not
        contain accumulated gradients.
        """
        self._ends |= trainer.should_stop
        trainer.should_stop = self._ends and (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        saved = any(getattr(callback, "stopped", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        ends = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        if ends and not saved:
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{self.CHECKPOINT_NAME_LAST}.ckpt")
            # Lightning then validates at any step, as part of training, so that checkpoints have the result.
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves `last.ckpt` if this validation is not among the best, so that the record of it is kept."""
        super().on_validation_end(trainer, pl_module)
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
