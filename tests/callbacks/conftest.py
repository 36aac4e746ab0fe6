"""A very small model, so that training it takes little time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader


class Tiny(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("steps_seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.steps_seen += 1
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/loss": self.layer(batch).square().mean(), "val/rank": 1.5})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., L.Trainer]:
    """Trains `Tiny` with callbacks, from a checkpoint if one is given, and returns the trainer."""

    def run(*callbacks: L.Callback, checkpoint: Path | None = None, **settings: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "max_steps": 20,
            "limit_val_batches": 0,
            "log_every_n_steps": 5,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": False,
        }
        trainer = L.Trainer(
            **{**defaults, **settings},
            callbacks=list(callbacks),
            accelerator="cpu",
            logger=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        loader = DataLoader(torch.randn(100, 2), batch_size=1)
        trainer.fit(Tiny(), loader, DataLoader(torch.randn(4, 2)), ckpt_path=checkpoint)
        return trainer

    return run
