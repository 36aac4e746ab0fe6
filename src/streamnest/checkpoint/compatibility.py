"""Compares a checkpoint with the config and the model of the run that continues from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from streamnest.checkpoint.loading import ARCHITECTURE, StoredCheckpoint, has_foreign_class
from streamnest.config.allowed_classes import ALLOWED
from streamnest.config.stored import check_labels, task_class, task_name
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder import EncoderConfig
from streamnest.encoder.config import fields_with
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.plain_data import of_file, short
from streamnest.files.tensor_file import check_shapes
from streamnest.objectives import MaskedAndNextTokenConfig
from streamnest.targets import TeacherConfig

log = logging.getLogger(__name__)

# Settings on which the result of a continued run depends, and those that only follow its length. A change of data is
# reported by the sampler.
_DECISIVE = (
    *("task.", "encoder.", "masking.", "objective.", "augment.", "optim.", "seed", "freeze"),
    *("trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val"),
)
_OF_LENGTH = ("optim.max_steps", "optim.warmup_steps")
# Values that apply to checkpoints written before the key existed.
_BEFORE = {"codes": "random", "kind": "nest", "norms_per_mode": False}

# Entries that Lightning needs to continue, and their types.
_STATE = {"global_step": int, "epoch": int, "pytorch-lightning_version": str, "loops": dict, "callbacks": dict}
_STATE |= {"optimizer_states": list, "lr_schedulers": list}


def check_architecture(checkpoint: StoredCheckpoint, config: Mapping[str, Any]) -> None:
    """Compares a checkpoint to continue from with the config of this run.

    Raises:
        UserError: naming every value of the architecture that differs, or the optimizer.
    """
    path, stored = checkpoint.path, checkpoint.content["streamnest"]["config"]
    if task_name(stored) != task_name(config):
        raise UserError(
            f"{path} is of task={task_name(stored)}, this run of task={task_name(config)}: encoder_from={path} starts "
            "a run of another task with its encoder"
        )
    found = [*differences(stored, config), *task_differences(stored, config)]
    if found:
        listed = "\n".join(f"  {name}: {then!r} in the checkpoint, {now!r} in this run" for name, then, now in found)
        raise UserError(f"{path} has a different architecture:\n{listed}")
    then, now = _optimizer(stored), _optimizer(config)
    if then and now and then != now:
        raise UserError(
            f"{path} was trained with optim.optimizer={then}, whose state {now} cannot continue: add the choice of "
            f"that run, such as optim={then}_cosine, or start from its weights with init_from={path}"
        )


def warn_of_changes(checkpoint: StoredCheckpoint, config: Mapping[str, Any]) -> None:
    """Names the settings of this run that differ from those of the run it continues, such as a learning rate."""
    then, now = dict(_flat(checkpoint.content["streamnest"]["config"])), dict(_flat(config))
    decisive = [key for key in now if key.startswith(_DECISIVE) and key in then and key not in _OF_LENGTH]
    if changed := [f"{key}={_shown(now[key])} (was {_shown(then[key])})" for key in decisive if now[key] != then[key]]:
        log.warning("this run continues %s with other settings: %s", checkpoint.path, ", ".join(changed))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value of nested settings with its full name."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return f"[{', '.join(map(short, value))}]" if isinstance(value, list) else short(value)


def _optimizer(config: Mapping[str, Any]) -> str | None:
    """Returns `optim.optimizer`, which old configs lack; None for a class outside the package."""
    node = config.get("optim")
    return None if node is None or has_foreign_class(node) else str(node.get("optimizer", "adamw"))


def check_training_state(checkpoint: StoredCheckpoint, model: EncoderTask) -> None:
    """Refuses a checkpoint whose training state is missing or damaged.

    Raises:
        UserError: naming the entry.
    """
    path, content = checkpoint.path, checkpoint.content
    for name, kind in _STATE.items():
        value = content.get(name)
        if name not in content:
            raise UserError(f"{path} has a model but no training state (no {name}): use init_from instead")
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 62):
            raise UserError(f"{path}: {name}={short(value)} is not valid: continue from another checkpoint")
    if not content["optimizer_states"]:
        raise UserError(f"{path} has no optimizer state, and a run cannot continue without it: use init_from instead")
    state, wanted = content["state_dict"], model.state_dict()
    check_shapes(state, wanted.items(), path)
    if strange := sorted(set(state) - set(wanted)):
        raise UserError(f"{path}: weights and config do not belong together: no {short(strange[0])} in this model")


def stored_labels(checkpoint: StoredCheckpoint | None, task: str) -> Any:
    """Returns the labels of a checkpoint; None without a checkpoint, or if it is of another task."""
    if checkpoint is None:
        return None
    stored = checkpoint.content["streamnest"]
    with of_file(checkpoint.path):
        if task_name(stored["config"]) != task:
            return None
        check_labels(task, stored.get("labels"))
    return stored.get("labels")


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists differences in the architecture of two configs: name, stored value, value of this run."""
    found, free = [], fields_with("training", EncoderConfig, MaskedAndNextTokenConfig, TeacherConfig)
    for group in ARCHITECTURE:
        for key in sorted(set(current[group]) | set(stored.get(group, {}))):
            then, now = stored.get(group, {}).get(key, _BEFORE.get(key)), current[group].get(key)
            if key not in free and then != now:
                found.append((f"{group}.{key}", then, now))
    return found


def task_differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists the same for the settings that shape the head of a downstream task; a missing one has its default."""
    node = current["task"]
    if has_foreign_class(node) and node["_target_"] not in ALLOWED["task"]:
        return []
    task = task_class(node)
    if not issubclass(task, DownstreamTask):
        return []
    defaults = vars(task.Settings())
    both = [(key, *(config["task"].get(key, defaults[key]) for config in (stored, current))) for key in task.shaped_by]
    return [(f"task.{key}", then, now) for key, then, now in both if then != now]
