"""Composes the config of a run outside of `train.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from streamnest.config import schema as config
from streamnest.config.limits import refuse_out_of_range
from streamnest.console.overrides import refuse_choices, refuse_overrides, with_paths_quoted
from streamnest.console.user_errors import as_user_errors


def compose_config(overrides: list[str], config_dir: Path, name: str) -> DictConfig:
    """Composes `train.yaml` with overrides, for a model that is not trained.

    Args:
        overrides: overrides; they take precedence over the fixed ones here.
        config_dir: folder of `train.yaml` and the groups.
        name: name of the config and its preset.

    Raises:
        UserError: for unknown groups, choices and keys, and for values out of range.
    """
    fixed = [f"name={name}", f"preset={name}", "logger=none", "callbacks=none", "paths.output_dir=."]
    overrides = [*fixed, *with_paths_quoted(overrides)]
    with as_user_errors(), config_loader(config_dir) as loader:
        refuse_overrides(overrides, loader)
        cfg = compose("train", overrides, return_hydra_config=True)
        refuse_choices(cfg.hydra.runtime.choices, loader)
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        refuse_out_of_range(cfg)
        return cfg


@contextmanager
def config_loader(config_dir: Path) -> Iterator[ConfigLoader]:
    """Initializes Hydra for the configs of a folder and yields its loader."""
    config.register()
    # Hydra serves one caller at a time, and a notebook may hold it.
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        if held:
            GlobalHydra.instance().initialize(held)
