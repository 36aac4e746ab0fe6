"""Locations of what is not Python: configs and the sample corpus, in a checkout or in an installed package."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def repository() -> Path | None:
    """Returns the root of the checkout that this package is imported from, None for an installed package."""
    root = _PACKAGE.parents[1]
    return root if (root / "configs/train.yaml").is_file() and (root / "pyproject.toml").is_file() else None


def data_root() -> Path:
    """Returns the folder that has `configs` and `data/sample16k`."""
    return repository() or _PACKAGE


def config_folder() -> Path:
    """Returns the folder of the Hydra configs."""
    return data_root() / "configs"


def sample_corpus() -> Path:
    """Returns the folder of the sample corpus, 0.6 hours of speech and 2.6 minutes of noise."""
    return data_root() / "data/sample16k"


def set_root() -> None:
    """Sets `STREAMNEST_ROOT`, from which the configs find the sample corpus, if the environment has none."""
    os.environ.setdefault("STREAMNEST_ROOT", os.path.relpath(data_root()))
