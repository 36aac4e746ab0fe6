"""Builds data, model, callbacks and loggers from a composed config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.config.stored import (
    ALLOWED,
    LIMITS,
    check_config,
    construct,
    require_loadable,
    task_class,
    task_settings,
)
from streamnest.config.tasks import DualModeConfig, TaskConfig
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import AugmentConfig, DataConfig, require_manifests
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.base import DownstreamTask
from streamnest.errors import UserError
from streamnest.files.plain_data import first_line, typed
from streamnest.pretraining import Pretraining
from streamnest.quantizer import QuantizerConfig

SchemaT = TypeVar("SchemaT")


def build_data(cfg: DictConfig) -> SpeechDataModule:
    """Builds the data module that the task of a run needs, without reading any data."""
    require_manifests(cfg.data)
    with user_errors():
        augment = _custom("augment", cfg.augment, AugmentConfig) or Augmentation(
            _typed(cfg.augment, AugmentConfig, "augment")
        )
        data = _custom("data", cfg.data, DataConfig, augment)
        return data or _data_module(cfg, _typed(cfg.data, DataConfig, "data"), augment)


def build_stored_data(config: Mapping[str, Any], **changes: Any) -> SpeechDataModule:
    """Builds the data module that a checkpoint was trained with, without augmentation and shell commands.

    Args:
        config: config of the checkpoint.
        changes: values of its group `data` to replace.

    Raises:
        UserError: for an unknown key, a wrong type, and a checkpoint trained with a data module of the user.
    """
    stored = config.get("data", {})
    if not isinstance(stored, Mapping):
        raise UserError(f"the checkpoint was trained with data._target_={stored}, whose settings are not stored")
    fields = {**stored, **changes, "allow_commands": False}
    return _data_module(config, typed(DataConfig, fields, "data"), None)


def _data_module(
    cfg: Mapping[str, Any] | DictConfig, config: DataConfig, augment: Augmentation | None
) -> SpeechDataModule:
    task = find_task(cfg)
    node: Any = OmegaConf.to_container(cfg.task, resolve=True) if isinstance(cfg, DictConfig) else cfg["task"]
    if not issubclass(task, DownstreamTask):
        return SpeechDataModule(config, augment)
    return task.build_data(_task_settings(task, node), config, augment)


def _typed(node: DictConfig, schema: type[SchemaT], group: str) -> SchemaT:
    return typed(schema, OmegaConf.to_container(node, resolve=True), group)


def _custom(group: str, node: DictConfig, schema: Any, *arguments: Any) -> Any:
    """Builds the class of a user that `_target_` names from its config; None if it names the default class.

    The config has the schema `Settings` of the class, if it has one, or that of the group.
    """
    if node._target_ == schema._target_:
        return None
    made = _import(f"{group}._target_", node._target_)
    return made(_typed(node, getattr(made, "Settings", schema), group), *arguments)


def _import(key: str, target: str) -> Any:
    try:
        return get_class(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"{key}={target} cannot be imported: {first_line(error)}") from None


def build_model(
    cfg: DictConfig | dict[str, Any], data: SpeechDataModule | None = None, *, labels: Any = None, training: bool = True
) -> Any:
    """Builds the model of any task from its config.

    Args:
        cfg: composed config, which may name any class; or plain data, such as the config of a checkpoint, which may
            name only those of `streamnest.config.stored`.
        data: data module from which a downstream task derives its labels.
        labels: labels of a downstream task, if they come from a checkpoint.
        training: build optimizer and schedule.

    Raises:
        UserError: for values that do not fit each other.
    """
    with user_errors():
        config = plain(cfg) if isinstance(cfg, DictConfig) else check_config(cfg)
        if isinstance(cfg, DictConfig) and training:
            require_loadable(config)
        make = build_part if isinstance(cfg, DictConfig) else construct
        parts = {
            "frontend": make("frontend", config["frontend"]),
            "encoder": make("encoder", config["encoder"]),
            "optimization": make("optim", config.get("optim", {})) if training else None,
            "seed": config.get("seed", 0),
            "config": config,
        }
        task = find_task(cfg)
        if issubclass(task, DownstreamTask):
            return _downstream(task, config, parts, data, labels)
        return _pretraining(task, config, parts, make)


def find_task(cfg: DictConfig | Mapping[str, Any]) -> type[DownstreamTask] | type[Pretraining]:
    """Returns the class of the task of a config.

    Args:
        cfg: the composed config, whose `task._target_` may be any class; or plain data, in which only those of
            `streamnest.config.stored` are accepted.

    Raises:
        UserError: for a class that cannot be imported or is not a task, and as `task_settings`.
    """
    if not (isinstance(cfg, DictConfig) and _is_foreign(cfg.task)):
        task: type[DownstreamTask] | type[Pretraining] = task_class(cfg["task"])
        return task
    task = _import("task._target_", cfg.task._target_)
    if not issubclass(task, (DownstreamTask, Pretraining)):
        raise UserError(f"task._target_={cfg.task._target_} must derive from DownstreamTask or Pretraining")
    return task


def build_outline(config: Mapping[str, Any], labels: Any) -> DownstreamTask:
    """Builds a downstream task from plain data on the meta device: tensors have shapes but no memory."""
    frontend = construct("frontend", config["frontend"])
    with torch.device("meta"):
        encoder = construct("encoder", config["encoder"])
        settings: Any = task_settings(config["task"])
        task: type[DownstreamTask] = task_class(config["task"])
        return task(frontend=frontend, encoder=encoder, settings=settings, labels=labels)


def build_part(group: str, node: Mapping[str, Any]) -> Any:
    """Builds a part of a model from a composed config, which may name any class by `_target_`."""
    known = isinstance(node, Mapping) and node.get("_target_", next(iter(ALLOWED[group]))) in ALLOWED[group]
    return construct(group, node) if known else instantiate(node)


def _is_foreign(task: Any) -> bool:
    """True if the group `task` names a class outside of the table."""
    return isinstance(task, Mapping) and task.get("_target_", TaskConfig._target_) not in ALLOWED["task"]


def _task_settings(task: type[DownstreamTask], node: Mapping[str, Any]) -> Any:
    """Returns the settings of a task, whose class may be outside of the table."""
    return typed(task.Settings, node, "task", LIMITS) if _is_foreign(node) else task_settings(node)


def _pretraining(
    task: type[Pretraining], cfg: dict[str, Any], parts: dict[str, Any], make: Callable[[str, Any], Any]
) -> Pretraining:
    if cfg.get("encoder_from") or cfg.get("freeze") is not None:
        raise UserError(
            "encoder_from and freeze are for tasks with labels, such as task=ctc: use init_from with task=pretrain"
        )
    if missing := [group for group in ("masking", "quantizer", "objective") if group not in cfg]:
        raise UserError(f"the config of task=pretrain has no {', '.join(missing)}")
    node = cfg["task"].get("dual_mode", {}) if isinstance(cfg["task"], Mapping) else {}
    dual_mode = typed(DualModeConfig, node, "task.dual_mode", LIMITS)
    own: dict[str, Any] = {"dual_mode": dual_mode} if dual_mode.active else {}
    return task(
        **parts,
        masking=make("masking", cfg["masking"]),
        quantizer=make("quantizer", cfg["quantizer"]),
        objective=make("objective", cfg["objective"]),
        target_normalize=cfg["quantizer"].get("normalize", QuantizerConfig.normalize),
        # Classes of the user may lack the argument.
        **own,
    )


def _downstream(
    task: type[DownstreamTask], cfg: dict[str, Any], parts: dict[str, Any], data: SpeechDataModule | None, labels: Any
) -> DownstreamTask:
    if cfg.get("init_from"):
        raise UserError(
            "init_from is for task=pretrain: use encoder_from=CKPT to initialize the encoder of another task"
        )
    node = cfg["task"]
    settings = _task_settings(task, node)
    if labels is None and data is not None:
        data.setup("fit")
        labels = task.find_labels(settings, data)
    return task(**parts, settings=settings, labels=labels, freeze=cfg.get("freeze"))


def build_all(nodes: DictConfig) -> list[Any]:
    """Instantiates the entries of a group that is a mapping of names to objects, such as callbacks."""
    with user_errors():
        return [instantiate(node) for node in nodes.values() if node is not None and "_target_" in node]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Returns the config as plain containers for a checkpoint, without groups that only concern one run."""
    kept = [str(key) for key in cfg if key not in ("logger", "callbacks", "paths", "print_config")]
    return {k: OmegaConf.to_container(cfg[k], resolve=True) if OmegaConf.is_config(cfg[k]) else cfg[k] for k in kept}


@contextmanager
def user_errors() -> Iterator[None]:
    """Raises the `UserError` that Hydra has wrapped in an error with a trace."""
    try:
        yield
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
