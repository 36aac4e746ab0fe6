"""Configs from files: plain data from which only classes of an explicit table are built, each with a typed schema.

Hydra and OmegaConf are not used here: nothing is interpolated, resolved or imported by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from streamnest.config.allowed_classes import ALLOWED, HISTORY, LIMITS, SCHEMAS, AllowedClass
from streamnest.config.schema import TrainConfig, TrainerConfig
from streamnest.config.tasks import TaskConfig
from streamnest.errors import UserError
from streamnest.files.plain_data import check_value, hints_of, require_known, require_plain, short, typed


def allow_class(group: str, target: Callable[..., Any], schema: type) -> None:
    """Allows configs in files to name a class of the user, with which a run was trained by its `_target_`.

    Args:
        group: group of the config, such as "encoder", "masking" or "task".
        target: class or function; it is called with the fields of the schema. For "task": the class of the task.
        schema: dataclass of its arguments. For "task": of its settings, derived from `TaskConfig`.

    Raises:
        UserError: for another group, and a schema that is not a dataclass.
    """
    if group not in ALLOWED or not is_dataclass(schema):
        raise UserError(f"allow_class: choose a group from {', '.join(ALLOWED)}, and give a dataclass as schema")
    if group == "task" and not issubclass(schema, TaskConfig):
        raise UserError("allow_class: the schema of a task must derive from streamnest.config.tasks.TaskConfig")
    make = (lambda: target) if group == "task" else target
    ALLOWED[group][f"{target.__module__}.{target.__qualname__}"] = AllowedClass(make, schema)


def construct(group: str, node: Mapping[str, Any]) -> Any:
    """Builds the object that a node of a config describes, with a class of the table.

    Raises:
        UserError: for a class that is not in the table, an unknown key, a wrong type, and a value out of range.
    """
    part, settings = _settings(group, node)
    # The caller normalizes the input of the quantizer.
    without = {"_target_"} | ({"normalize"} if group == "quantizer" else set())
    return part.make(**{key: value for key, value in vars(settings).items() if key not in without})


def task_name(cfg: Any) -> str:
    """Returns the name of the task of a config; the oldest checkpoints have it as a string."""
    task = cfg.get("task")
    name = task.get("name") if isinstance(task, Mapping) else task
    if not isinstance(name, str):
        raise UserError(f"the config has no task: task={short(task)}")
    return name


def task_class(node: Mapping[str, Any] | str) -> type:
    """Returns the class of a task.

    Raises:
        UserError: as `task_settings`.
    """
    made: type = _part("task", _with_target(node)).make()
    return made


def task_settings(node: Mapping[str, Any] | str) -> TaskConfig:
    """Returns the settings of a task.

    Args:
        node: group `task` of a config. Older ones have the task's name without `_target_`, or are the name.

    Raises:
        UserError: for a class that is not in the table, a name that does not belong to it, and as `typed`.
    """
    part, settings = _settings("task", _with_target(node))
    if part.schema.__module__ == TaskConfig.__module__ and settings.name != part.schema.name:
        raise UserError(
            f"task.name={short(settings.name)} does not belong to {part.schema._target_}: it must be {part.schema.name}"
        )
    return settings


def _with_target(node: Any) -> Any:
    """Adds the class to settings of a task that have its name only."""
    fields = {"name": node} if isinstance(node, str) else node
    if not isinstance(fields, Mapping) or "_target_" in fields:
        return fields
    targets = {part.schema.name: target for target, part in reversed(ALLOWED["task"].items())}
    name = fields.get("name")
    if not isinstance(name, str) or name not in targets:
        raise UserError(f"task {short(name)} is unknown: choose {', '.join(reversed(targets))}")
    return {**fields, "_target_": targets[name]}


def check_config(config: Any) -> dict[str, Any]:
    """Checks the whole config of a file.

    Returns:
        The same config.

    Raises:
        UserError: naming the key, for unknown keys, wrong types, values out of range and classes not in the table.
    """
    require_plain(config, "config")
    hints = hints_of(TrainConfig)
    require_known(config, hints, "config")
    if missing := {"task", "frontend", "encoder"} - set(config):
        raise UserError(f"the config has no {', '.join(sorted(missing))}: it does not describe a streamnest model")
    _check_targets(config)
    for group, node in config.items():
        if group == "task":
            task_settings(node)
        elif group in ALLOWED:
            _settings(group, node)
        elif group in HISTORY and isinstance(node, str):
            continue  # the name of a class of the user, see `_without_targets`
        elif group in SCHEMAS:
            typed(SCHEMAS[group], node, group, LIMITS)
        elif group == "trainer":
            _check_trainer(node)
        elif group not in ("logger", "callbacks", "paths"):
            check_value(hints[group], node, f"config.{group}", LIMITS)
    _check_names(config)
    return dict(config)


def _check_trainer(node: Any) -> None:
    """Checks the arguments of the trainer, of which Lightning has more than the schema."""
    hints = hints_of(TrainerConfig)
    require_known(node, node, "trainer")
    for key, value in node.items():
        check_value(hints.get(key, Any), value, f"trainer.{key}", LIMITS)


def _check_names(config: Mapping[str, Any]) -> None:
    """Refuses names with control characters or markup, which would affect tables and terminals."""
    contexts = config["encoder"].get("contexts", {})
    for name in (config.get("preset", ""), config.get("name", ""), *contexts):
        if not name.isprintable() or (name in contexts and set(name) & set("[]")):
            raise UserError(f"{short(name)} is not a name: it has brackets or unprintable characters")


def check_labels(task: str, labels: Any) -> None:
    """Checks the labels of a task from a file.

    Raises:
        UserError: for labels that do not belong to this task.
    """
    require_plain(labels, "labels", interpolations=True)
    if task in ("ctc", "rnnt"):
        names = labels.get("symbols") if isinstance(labels, dict) else None
        if isinstance(labels, dict) and labels.get("kind") == "sentencepiece" and isinstance(labels.get("model"), str):
            return
    elif task == "speaker":
        names = labels.get("speakers") if isinstance(labels, dict) else None
    else:
        return
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"the labels of task={task} are not valid: they must be a list of names or characters")
    if len(set(names)) < len(names) or (task != "speaker" and not all(name.isprintable() for name in names)):
        raise UserError(f"the labels of task={task} are not valid: one occurs twice or is not printable")


def storable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a config that is stored: keys of the schema, and training groups without foreign classes."""
    kept = {key: value for key, value in config.items() if key in hints_of(TrainConfig)}
    return kept | {key: _without_targets(kept[key], key) for key in kept if key in HISTORY}


def require_loadable(config: Mapping[str, Any]) -> None:
    """Refuses a run whose checkpoints could not be loaded; arguments of classes of the user are not checked.

    Args:
        config: config of the run, as plain containers.

    Raises:
        UserError: as `check_config`.
    """
    stored = storable(config)
    for group in ALLOWED.keys() & stored.keys():
        node = stored[group]
        if isinstance(node, Mapping) and node.get("_target_", next(iter(ALLOWED[group]))) not in ALLOWED[group]:
            stored[group] = {"name": TaskConfig.name} if group == "task" else {}
    check_config(stored)


def _without_targets(node: Any, location: str) -> Any:
    """Replaces each node with a foreign class by the name of the class."""
    if isinstance(node, Mapping):
        if "_target_" in node and node["_target_"] not in HISTORY.get(location, ()):
            return str(node["_target_"])
        return {key: _without_targets(value, f"{location}.{key}") for key, value in node.items()}
    return [_without_targets(value, location + "[]") for value in node] if isinstance(node, list) else node


def _settings(group: str, node: Any) -> tuple[AllowedClass, Any]:
    part = _part(group, node)
    return part, typed(part.schema, node, group, LIMITS)


def _part(group: str, node: Any) -> AllowedClass:
    known = ALLOWED[group]
    target = node.get("_target_", next(iter(known))) if isinstance(node, Mapping) else next(iter(known))
    if not isinstance(target, str) or target not in known:
        raise UserError(
            f"{group}._target_={short(target)} is refused: a file may name {', '.join(known)} only. "
            f"A class of your own is allowed with streamnest.allow_class({group!r}, CLASS, SCHEMA)"
        )
    return known[target]


def _check_targets(config: Mapping[str, Any]) -> None:
    """Refuses classes in nodes that should have none; groups of the table are checked when they are built."""
    for location, target in _targets(config, ""):
        if location in ALLOWED or (location in HISTORY and isinstance(target, str) and target in HISTORY[location]):
            continue
        raise UserError(
            f"{location or 'config'}._target_={short(target)} is refused: a file must not name a class there"
        )


def _targets(node: Any, location: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield location, node["_target_"]
        for key, value in node.items():
            yield from _targets(value, f"{location}.{key}" if location else key)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{location}[{index}]")
