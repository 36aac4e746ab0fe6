"""Records the metrics of each validation, for the summary at the end."""

from __future__ import annotations

import lightning as L
from lightning import Callback

from streamnest.encoder_task import EncoderTask


class ValHistory(Callback):
    """Records the `val/` metrics of every validation in order, each with its `step` and `hours` of audio consumed.

    Attributes:
        records: one dict per validation; a second validation at the same step replaces the first.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []

    @property
    def first(self) -> dict[str, float]:
        """Metrics of the first validation; empty before it."""
        return self.records[0] if self.records else {}

    @property
    def last(self) -> dict[str, float]:
        """Metrics of the latest validation; empty before the first."""
        return self.records[-1] if self.records else {}

    @property
    def last_step(self) -> int | None:
        """Step of the latest validation."""
        return int(self.last["step"]) if self.records else None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the hours of audio consumed with the validation, so that its metrics can be plotted over them."""
        if isinstance(pl_module, EncoderTask):
            pl_module.log("train/hours", (pl_module.seconds_seen / 3600).float(), sync_dist=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adds a record, except for Lightning's sanity check."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if trainer.sanity_checking or not metrics:
            return
        if self.last_step == trainer.global_step:
            self.records.pop()
        hours = {"hours": pl_module.hours_seen} if isinstance(pl_module, EncoderTask) else {}
        self.records.append({"step": float(trainer.global_step), **hours, **metrics})

    def state_dict(self) -> dict[str, list[dict[str, float]]]:
        """Returns the records, so that a resumed run keeps those from before."""
        return {"records": list(self.records)}

    def load_state_dict(self, state_dict: dict[str, list[dict[str, float]]]) -> None:
        """Restores the records of the interrupted run."""
        self.records = list(state_dict["records"])
