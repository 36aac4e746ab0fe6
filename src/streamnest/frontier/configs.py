"""Digests of config files for each choice of config groups, so that a changed file changes the hash of a stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from streamnest.config.compose import compose_config
from streamnest.frontier.options import FrontierOptions, setting_of
from streamnest.frontier.plan import affects_result, every_stage


def with_configs(options: FrontierOptions, folder: Path) -> FrontierOptions:
    """Adds to options the digests of the config files that their training stages use.

    The hash of a stage already contains the values of its overrides; a digest adds the values that only files set.

    Args:
        options: options of the frontier.
        folder: folder of `train.yaml` and the config groups.

    Raises:
        UserError: if an override chooses a config file that does not exist.
    """
    groups = {path.name for path in folder.iterdir() if path.is_dir()}
    trainings = [stage for stage in every_stage(options) if stage.kind in ("pretrain", "finetune")]
    choices = dict.fromkeys(_choices(stage.overrides, groups) for stage in trainings)
    return replace(options, configs=tuple((chosen, _digest(chosen, folder)) for chosen in choices))


def _choices(overrides: Sequence[str], groups: set[str]) -> tuple[str, ...]:
    """Returns the overrides that choose the file of a config group and affect the result."""
    return tuple(sorted(one for one in overrides if setting_of(one) in groups and affects_result(setting_of(one))))


def _digest(choices: Sequence[str], folder: Path) -> str:
    config = OmegaConf.to_container(compose_config(list(choices), folder, "frontier"))
    known = {name: value for name, value in _values(config) if affects_result(name)}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _values(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the unresolved values of a config by dotted key; they do not depend on the machine."""
    if not isinstance(node, dict) or not node:
        yield name, node
        return
    for key, part in node.items():
        yield from _values(part, f"{name}.{key}" if name else str(key))
