"""A fixture that trains a task for some steps in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
from omegaconf import DictConfig

from streamnest.build import build_data, build_model
from streamnest.checkpoint.inherit_encoder import load_encoder, with_encoder_of
from streamnest.corpus_statistics import fit_statistics


@pytest.fixture
def train(run_config: Callable[..., DictConfig]) -> Callable[..., Any]:
    """Trains a task for some steps as train.py does, without files; returns the model and its trainer."""

    def run(*overrides: str, steps: int = 3) -> tuple[Any, L.Trainer]:
        cfg = with_encoder_of(run_config("data.cache_mb=0", *overrides), overrides=list(overrides))
        L.seed_everything(cfg.seed, verbose=False)
        data = build_data(cfg)
        model = build_model(cfg, data)
        if cfg.encoder_from:
            load_encoder(model, cfg.encoder_from)
        data.setup("fit")
        fit_statistics(model, data.statistics_batches(), 0.02)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            **quiet,
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            enable_checkpointing=False,
        )
        trainer.fit(model, datamodule=data)
        return model, trainer

    return run
