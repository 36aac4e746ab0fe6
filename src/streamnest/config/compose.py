"""Composing the config of a run outside of `train.py`."""

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
from streamnest.console.mistakes import as_user_errors
from streamnest.console.overrides import refuse_choices, refuse_words, with_paths_quoted


def compose_config(words: list[str], config_dir: Path, name: str) -> DictConfig:
    """The config of `train.yaml` with overrides, for a model that no run has trained.

    Args:
        words: overrides; they come before what is fixed here.
        config_dir: holds `train.yaml` and the groups.
        name: what the config calls itself and its preset.

    Raises:
        UserError: for overrides that name nothing, and for values out of range.
    """
    fixed = [f"name={name}", f"preset={name}", "logger=none", "callbacks=none", "paths.output_dir=."]
    words = [*fixed, *with_paths_quoted(words)]
    with as_user_errors(), config_loader(config_dir) as loader:
        refuse_words(words, loader)
        cfg = compose("train", words, return_hydra_config=True)
        refuse_choices(cfg.hydra.runtime.choices, loader)
        cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        refuse_out_of_range(cfg)
        return cfg


@contextmanager
def config_loader(config_dir: Path) -> Iterator[ConfigLoader]:
    """Hydra, ready to compose the configs of a folder."""
    config.register()
    # Hydra composes for one caller at a time, such as a notebook that has not come to its end.
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        if held:
            GlobalHydra.instance().initialize(held)
