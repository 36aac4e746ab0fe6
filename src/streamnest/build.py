"""Builds data, model, callbacks and loggers from a composed config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.config.stored import PARTS, check_config, construct, require_loadable, task_name, task_settings
from streamnest.data.config import DataConfig, require_manifests
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.asr.rnnt import RNNTRecognizer
from streamnest.downstream.base import DownstreamTask
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.speaker.task import SpeakerRecognizer
from streamnest.errors import UserError
from streamnest.files.plain_data import typed
from streamnest.pretraining import Pretraining
from streamnest.quantizer import QuantizerConfig

DOWNSTREAM: dict[str, type[DownstreamTask]] = {
    "ctc": CTCRecognizer,
    "rnnt": RNNTRecognizer,
    "diarization": Diarizer,
    "speaker": SpeakerRecognizer,
}


def build_data(cfg: DictConfig) -> SpeechDataModule:
    """Builds the data module of a run, without reading data, as its task needs it."""
    task = DOWNSTREAM.get(task_name(cfg))
    require_manifests(cfg.data)
    with user_errors():
        needs = task.data_options(cfg.task) if task else {}
        data: SpeechDataModule = instantiate(cfg.data, augment=instantiate(cfg.augment), **needs)
        return data


def build_stored_data(config: Mapping[str, Any], **changes: Any) -> SpeechDataModule:
    """Builds the data module that a checkpoint was trained with, without augmentation and commands in manifests.

    Args:
        config: config of the checkpoint.
        changes: values of its group `data` to replace.

    Raises:
        UserError: for an unknown key and a wrong type.
    """
    fields = vars(typed(DataConfig, {**config.get("data", {}), **changes}, "data"))
    task = DOWNSTREAM.get(task_name(config))
    needs = task.data_options(task_settings(config["task"])) if task else {}
    if "_target_" in needs:
        raise UserError(f"the data of task={task_name(config)} cannot be built from a checkpoint")
    kept = {key: value for key, value in fields.items() if key not in ("_target_", "allow_commands")}
    return SpeechDataModule(**{**kept, **needs})


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
        name = task_name(config)
        if name == "pretrain":
            return _pretraining(config, parts, make)
        if name not in DOWNSTREAM:
            raise UserError(f"task {name!r} is unknown: choose pretrain, {', '.join(DOWNSTREAM)}")
        return _downstream(DOWNSTREAM[name], config, parts, data, labels)


def build_outline(config: Mapping[str, Any], labels: Any) -> DownstreamTask:
    """Builds a downstream task from plain data on the meta device: tensors have shapes but no memory."""
    frontend = construct("frontend", config["frontend"])
    with torch.device("meta"):
        encoder = construct("encoder", config["encoder"])
        settings: Any = task_settings(config["task"])
        return DOWNSTREAM[task_name(config)](frontend=frontend, encoder=encoder, settings=settings, labels=labels)


def build_part(group: str, node: Mapping[str, Any]) -> Any:
    """Builds a part of a model from a composed config, which may name any class by `_target_`."""
    known = isinstance(node, Mapping) and node.get("_target_", next(iter(PARTS[group]))) in PARTS[group]
    return construct(group, node) if known else instantiate(node)


def _pretraining(cfg: dict[str, Any], parts: dict[str, Any], make: Callable[[str, Any], Any]) -> Pretraining:
    if cfg.get("encoder_from") or cfg.get("freeze") is not None:
        raise UserError(
            "encoder_from and freeze are for tasks with labels, such as task=ctc: use init_from with task=pretrain"
        )
    if missing := [group for group in ("masking", "quantizer", "objective") if group not in cfg]:
        raise UserError(f"the config of task=pretrain has no {', '.join(missing)}")
    return Pretraining(
        **parts,
        masking=make("masking", cfg["masking"]),
        quantizer=make("quantizer", cfg["quantizer"]),
        objective=make("objective", cfg["objective"]),
        target_normalize=cfg["quantizer"].get("normalize", QuantizerConfig.normalize),
    )


def _downstream(
    task: type[DownstreamTask], cfg: dict[str, Any], parts: dict[str, Any], data: SpeechDataModule | None, labels: Any
) -> DownstreamTask:
    if cfg.get("init_from"):
        raise UserError(
            "init_from is for task=pretrain: use encoder_from=CKPT to initialize the encoder of another task"
        )
    settings: Any = task_settings(cfg["task"])
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
