"""What config files hold: a digest for each choice of config groups, so that a changed file is another stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from streamnest.config.compose import compose_config
from streamnest.frontier.options import Options, setting_of
from streamnest.frontier.plan import decides, every_stage


def with_configs(options: Options, folder: Path) -> Options:
    """The options, and digests of what config files hold for each choice of groups that a training of theirs makes.

    Values that overrides name are in the hash of a stage already; a digest adds those that only files name.

    Args:
        options: of the frontier.
        folder: holds `train.yaml` and the groups.

    Raises:
        UserError: for a choice without a file.
    """
    groups = {path.name for path in folder.iterdir() if path.is_dir()}
    trainings = [stage for stage in every_stage(options) if stage.kind in ("pretrain", "finetune")]
    choices = dict.fromkeys(_choices(stage.words, groups) for stage in trainings)
    return replace(options, configs=tuple((chosen, _digest(chosen, folder)) for chosen in choices))


def _choices(words: Sequence[str], groups: set[str]) -> tuple[str, ...]:
    """The overrides that choose a file of a group and decide what comes out."""
    return tuple(sorted(word for word in words if setting_of(word) in groups and decides(setting_of(word))))


def _digest(choices: Sequence[str], folder: Path) -> str:
    held = OmegaConf.to_container(compose_config(list(choices), folder, "frontier"))
    known = {name: value for name, value in _values(held) if decides(name)}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _values(held: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a config says by dotted names, as it is written: nothing of the machine is in it."""
    if not isinstance(held, dict) or not held:
        yield name, held
        return
    for key, part in held.items():
        yield from _values(part, f"{name}.{key}" if name else str(key))
