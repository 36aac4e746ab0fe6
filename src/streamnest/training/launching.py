"""The command line of `train.py` before Hydra has it: mistakes in its words, and paths as they were typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from streamnest.config.compose import config_loader
from streamnest.config.limits import refuse_out_of_range, refuse_trainer
from streamnest.console.overrides import refuse_choices, refuse_words, with_paths_quoted
from streamnest.errors import UserError


def check_command_line(config_dir: Path) -> None:
    """Refuses words that Hydra would refuse in its own way or leave out, and quotes paths for it.

    Raises:
        UserError: for options that do not exist, and as `refuse_words`.
    """
    # Errors come here as they are, and not as a text of Hydra's with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [word if word.startswith("-") else with_paths_quoted([word])[0] for word in sys.argv[1:]]
    known, rest = get_args_parser().parse_known_args()
    for word in rest:
        if word.startswith("-"):
            raise UserError(_no_option(word))
    words = [*known.overrides, *rest]
    # Hydra takes options such as -m before the words only.
    sys.argv[1:] = [*(word for word in sys.argv[1:] if word not in words), *words]
    if known.resolve and not known.cfg:
        raise UserError("--resolve goes with --cfg job: it prints values in place of references")
    if known.multirun and (known.cfg or known.info):
        raise UserError("--multirun starts runs, --cfg and --info print: give one of them")
    elsewhere = [f"hydra.searchpath=[file://{Path(known.config_dir).resolve()}]"] if known.config_dir else []
    if not known.shell_completion:
        with config_loader(config_dir) as loader:
            refuse_words([*elsewhere, *words], loader)


def refuse(cfg: DictConfig) -> None:
    """Refuses what a job was composed of and what it cannot train with, before anything is read or built.

    Raises:
        UserError: naming the key, the value and what is legal.
    """
    if HydraConfig.initialized() and GlobalHydra.instance().is_initialized():
        refuse_choices(HydraConfig.get().runtime.choices, GlobalHydra.instance().config_loader())
    refuse_out_of_range(cfg)
    refuse_trainer(cfg)
    for key in ("run_id", "ckpt_path", "init_from", "encoder_from"):
        # As where a variable of the shell is not set: the run would be another one than was meant.
        if cfg[key] is not None and not str(cfg[key]).strip(" ./" if key == "run_id" else None):
            raise UserError(f"{key}={cfg[key]} names nothing: give a value, or {key}=null for none")
    if cfg.run_id is not None and ".." in Path(cfg.run_id).parts:
        raise UserError(f"run_id={cfg.run_id}: a name of a folder in {cfg.paths.log_dir}: leave out '..'")
    if cfg.init_from and cfg.ckpt_path:
        raise UserError("init_from begins a new run and ckpt_path continues one: give one of the two")


def is_sweep() -> bool:
    """True if this job is one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _no_option(word: str) -> str:
    plain = word.lstrip("-")
    example = plain if "=" in plain else "KEY=VALUE"
    return f"{word}: it is not an option; an override is written without dashes: {example}"
