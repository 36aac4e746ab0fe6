"""Composing the config of a run outside of `train.py`."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from streamnest import config


def compose_config(words: list[str], config_dir: Path, name: str) -> DictConfig:
    """The config of `train.yaml` with overrides, for a model that no run has trained.

    Args:
        words: overrides; they come before what is fixed here.
        config_dir: holds `train.yaml` and the groups.
        name: what the config calls itself and its preset.

    Raises:
        HydraException: for overrides that name nothing.
    """
    config.register()
    fixed = [f"name={name}", f"preset={name}", "logger=none", "callbacks=none", "paths.output_dir=."]
    # Hydra composes for one caller at a time, such as a notebook that has not come to its end.
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            return compose("train", [*fixed, *words])
    finally:
        if held:
            GlobalHydra.instance().initialize(held)
