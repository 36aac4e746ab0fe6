"""Shared helpers: tiny models, audio, composed configs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from models import TINY
from omegaconf import DictConfig, OmegaConf

from streamnest.config import schema as config

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("STREAMNEST_ROOT", str(ROOT))
os.environ.setdefault("WANDB_MODE", "offline")
# For processes that tests start: two tests run at a time on two cores, and waiting threads would spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests never measure time, because a busy machine is not a defect.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps tests, and processes that they start, from writing to the user's cache."""
    os.environ["STREAMNEST_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Limits threads: two tests run at a time on two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Composes `configs/train.yaml` with overrides, as the command line does."""
    config.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield lambda *overrides: compose("train", list(overrides), return_hydra_config=True)


@pytest.fixture
def run_config(composed: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Composes the config of a tiny run that writes nothing, as train.py is given it."""
    quiet = ("name=t", "preset=t", "logger=none", "callbacks=none", "paths.output_dir=.", "trainer=cpu")

    def make(*overrides: str) -> DictConfig:
        cfg = composed(*TINY, *quiet, *overrides)
        return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])

    return make


@pytest.fixture
def speech_like() -> Callable[..., torch.Tensor]:
    """Deterministic audio `(B, N)` with structure in time and frequency."""

    def make(batch: int, samples: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(batch, samples, generator=generator, dtype=torch.float64)
        slow = torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1
        return (0.1 * noise * slow).to(dtype)

    return make
