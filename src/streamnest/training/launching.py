"""Checks the command line of `train.py` before Hydra parses it, and the composed config before anything is built."""

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
from streamnest.console.overrides import refuse_choices, refuse_overrides, with_paths_quoted
from streamnest.errors import UserError
from streamnest.training.budget import refuse_contradictions


def check_command_line(config_dir: Path) -> None:
    """Refuses arguments that Hydra ignores or reports unclearly, and quotes paths for it.

    Raises:
        UserError: for options that do not exist, and as `refuse_overrides`.
    """
    # Hydra raises errors instead of printing them and exiting with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [one if one.startswith("-") else with_paths_quoted([one])[0] for one in sys.argv[1:]]
    known, rest = get_args_parser().parse_known_args()
    for argument in rest:
        if argument.startswith("-"):
            raise UserError(_no_option(argument))
    overrides = [*known.overrides, *rest]
    # Hydra accepts options such as -m only before the overrides.
    sys.argv[1:] = [*(one for one in sys.argv[1:] if one not in overrides), *overrides]
    if known.resolve and not known.cfg:
        raise UserError("--resolve needs --cfg job: it prints values instead of references")
    if known.multirun and (known.cfg or known.info):
        raise UserError("--multirun starts runs, --cfg and --info only print: give one of them")
    elsewhere = [f"hydra.searchpath=[file://{Path(known.config_dir).resolve()}]"] if known.config_dir else []
    if not known.shell_completion:
        with config_loader(config_dir) as loader:
            refuse_overrides([*elsewhere, *overrides], loader)


def refuse(cfg: DictConfig) -> None:
    """Refuses unknown choices and values that are out of range or contradict each other, before anything is built.

    Raises:
        UserError: naming the key, the value and the legal values.
    """
    if HydraConfig.initialized() and GlobalHydra.instance().is_initialized():
        refuse_choices(HydraConfig.get().runtime.choices, GlobalHydra.instance().config_loader())
    refuse_out_of_range(cfg)
    refuse_trainer(cfg)
    refuse_contradictions(cfg)
    for key in ("run_id", "ckpt_path", "init_from", "encoder_from"):
        # A shell variable that is not set, for example.
        if cfg[key] is not None and not str(cfg[key]).strip(" ./" if key == "run_id" else None):
            raise UserError(f"{key}={cfg[key]} is empty: give a value, or {key}=null for none")
    if cfg.run_id is not None and ".." in Path(cfg.run_id).parts:
        raise UserError(f"run_id={cfg.run_id} must be a folder below {cfg.paths.log_dir}: leave out '..'")
    if cfg.init_from and cfg.ckpt_path:
        raise UserError("init_from starts a new run and ckpt_path continues one: give one of the two")


def is_sweep() -> bool:
    """True if this job is one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _no_option(argument: str) -> str:
    plain = argument.lstrip("-")
    example = plain if "=" in plain else "KEY=VALUE"
    return f"{argument} is not an option; write an override without dashes: {example}"
