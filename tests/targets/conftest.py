"""A tiny checkpoint as teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import write_checkpoint


@pytest.fixture
def teacher_file(run_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Path]:
    """Writes a teacher with random weights; overrides select its encoder."""

    def make(*overrides: str, name: str = "teacher.ckpt") -> Path:
        cfg = run_config(*(overrides or ("encoder=bidirectional",)))
        path: Path = tmp_path / name
        write_checkpoint(ready(cfg), path)
        return path

    return make
