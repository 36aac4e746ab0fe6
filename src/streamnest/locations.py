"""Locations of files that are not Python modules: configs and sample corpus, in a checkout or an installed package."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def repository() -> Path | None:
    """Returns the root of the checkout that this package is imported from, None for an installed package."""
    root = _PACKAGE.parents[1]
    return root if (root / "configs/train.yaml").is_file() and (root / "pyproject.toml").is_file() else None


def data_root() -> Path:
    """Returns the folder that contains `configs` and `data/sample16k`."""
    return repository() or _PACKAGE


def config_folder() -> Path:
    """Returns the folder of the Hydra configs."""
    return data_root() / "configs"


def sample_corpus() -> Path:
    """Returns the folder of the sample corpus: 0.6 hours of speech and 2.6 minutes of noise."""
    return data_root() / "data/sample16k"


def train_command() -> str:
    """Returns the command that trains, as a user types it: `python train.py` in a checkout, else `streamnest train`."""
    return "python train.py" if repository() == Path.cwd() else "streamnest train"


def set_root() -> None:
    """Sets `STREAMNEST_ROOT`, which the configs use to find the sample corpus, unless it is set."""
    os.environ.setdefault("STREAMNEST_ROOT", os.path.relpath(data_root()))
