"""From a composed config to objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.data.config import require_manifests
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.augment import SpecAugmentConfig
from streamnest.downstream.base import DownstreamTask
from streamnest.downstream.ctc import CTCRecognizer
from streamnest.downstream.diarization import Diarizer
from streamnest.downstream.rnnt import RNNTRecognizer
from streamnest.downstream.speaker import SpeakerRecognizer
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining

DOWNSTREAM: dict[str, type[DownstreamTask]] = {
    "ctc": CTCRecognizer,
    "rnnt": RNNTRecognizer,
    "diarization": Diarizer,
    "speaker": SpeakerRecognizer,
}


def task_name(cfg: Any) -> str:
    """The task of a config; checkpoints from before there were several say it in a word."""
    return str(cfg["task"] if isinstance(cfg["task"], str) else cfg["task"]["name"])


def build_data(cfg: DictConfig) -> SpeechDataModule:
    """The data of a run, not read yet, as its task needs it."""
    task = DOWNSTREAM.get(task_name(cfg))
    require_manifests(cfg.data)
    with user_errors():
        needs = task.data_options(cfg.task) if task else {}
        data: SpeechDataModule = instantiate(cfg.data, augment=instantiate(cfg.augment), **needs)
        return data


def build_model(
    cfg: DictConfig, data: SpeechDataModule | None = None, *, labels: Any = None, training: bool = True
) -> Any:
    """Builds the model a config describes, whatever its task.

    Args:
        cfg: the composed config.
        data: where a downstream task finds what its outputs are to mean.
        labels: what they mean, where a checkpoint knows it.
        training: with optimiser and schedule.

    Raises:
        UserError: for values that do not fit.
    """
    with user_errors():
        parts = {
            "frontend": instantiate(cfg.frontend),
            "encoder": instantiate(cfg.encoder),
            "optimization": instantiate(cfg.optim) if training else None,
            "seed": cfg.seed,
            "config": plain(cfg),
        }
        name = task_name(cfg)
        if name == "pretrain":
            return _pretraining(cfg, parts)
        if name not in DOWNSTREAM:
            raise UserError(f"task {name!r} is unknown: choose pretrain, {', '.join(DOWNSTREAM)}")
        return _downstream(DOWNSTREAM[name], cfg, parts, data, labels)


def _pretraining(cfg: DictConfig, parts: dict[str, Any]) -> Pretraining:
    if cfg.get("encoder_from") or cfg.get("freeze") is not None:
        raise UserError(
            "encoder_from and freeze are for tasks with labels, such as task=ctc; task=pretrain has init_from"
        )
    quantizer = {k: v for k, v in cfg.quantizer.items() if k != "normalize"}
    return Pretraining(
        **parts,
        masking=instantiate(cfg.masking),
        quantizer=instantiate(quantizer),
        objective=instantiate(cfg.objective),
        target_normalize=cfg.quantizer.normalize,
    )


def _downstream(
    task: type[DownstreamTask], cfg: DictConfig, parts: dict[str, Any], data: SpeechDataModule | None, labels: Any
) -> DownstreamTask:
    if cfg.get("init_from"):
        raise UserError(
            "init_from is for task=pretrain: encoder_from=CKPT gives another task the encoder of a checkpoint"
        )
    fields = plain(cfg)["task"]
    settings = task.Settings(**{**fields, "spec_augment": SpecAugmentConfig(**fields["spec_augment"])})
    if labels is None and data is not None:
        data.setup("fit")
        labels = task.find_labels(settings, data)
    return task(**parts, settings=settings, labels=labels, freeze=cfg.get("freeze"))


def build_all(nodes: DictConfig) -> list[Any]:
    """Instantiates the entries of a group that is a mapping of names to objects, such as callbacks."""
    with user_errors():
        return [instantiate(node) for node in nodes.values() if node is not None and "_target_" in node]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, resolved as far as it can be without a Hydra run; safe to load weights-only."""
    kept = [str(key) for key in cfg if key not in ("logger", "callbacks", "paths")]
    return {k: OmegaConf.to_container(cfg[k], resolve=True) if OmegaConf.is_config(cfg[k]) else cfg[k] for k in kept}


@contextmanager
def user_errors() -> Iterator[None]:
    """Lets a `UserError` out of Hydra's wrapping, which would hide it in a trace."""
    try:
        yield
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
