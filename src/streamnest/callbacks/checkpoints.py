"""Best and last checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class BestAndLast(ModelCheckpoint):
    """`ModelCheckpoint` that also saves `last.ckpt` if a run ends between two validations.

    The arguments are those of `ModelCheckpoint`; `dirpath` is required.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the last step of the run, unless `StopOnSignal` has saved it."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        saved = any(getattr(callback, "stopped", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        ends = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        if ends and not saved:
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{self.CHECKPOINT_NAME_LAST}.ckpt")
