"""Checkpoints: opening them safely, and saying clearly what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf

from streamnest.build import DOWNSTREAM, build_model, task_name
from streamnest.errors import UserError
from streamnest.files import whole
from streamnest.folder import read_folder
from streamnest.pretraining import Pretraining
from streamnest.task import EncoderTask

TaskT = TypeVar("TaskT", bound=EncoderTask)

# What decides the shape and the function of the network; the rest may change between runs.
_ARCHITECTURE = ("frontend", "encoder", "quantizer", "objective")
# What checkpoints meant that were written before there was such a key.
_BEFORE = {"codes": "random"}
_FREE = {"dropout", "dropout_input", "dropout_attention", "allow_future_leak", "contexts", "recompute_blocks"}
_FREE |= {"masked_weight", "next_token_weight", "heard_weight", "max_heard", "frame_share"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a streamnest checkpoint without executing anything in it.

    Raises:
        UserError: when the file is missing, no checkpoint, truncated, or not one of streamnest's.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, which a run cannot continue from: init_from begins a new one with it")
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: check the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no checkpoint, or a truncated or unsafe one ({reason[:160]})") from None
    if not isinstance(checkpoint, dict) or "streamnest" not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no streamnest checkpoint: it has no streamnest config")
    return checkpoint


def read_own(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, or a folder of `save_pretrained`, whose config builds classes of streamnest only.

    Raises:
        UserError: as `read_checkpoint` or `read_folder`; or when the config names classes from outside streamnest.
    """
    checkpoint = read_folder(path) if Path(path).is_dir() else read_checkpoint(path)
    _refuse_foreign_targets(checkpoint["streamnest"]["config"], path)
    return checkpoint


def write_checkpoint(model: EncoderTask, path: str | Path) -> None:
    """Writes a model, without the state of a training, whole or not at all; `load_model` gives it back."""
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    with whole(Path(path)) as part:
        torch.save(checkpoint, part)


def load_model(path: str | Path, context: str | None = None) -> EncoderTask:
    """A model of any task in evaluation mode, built from the config in the checkpoint.

    Args:
        path: of the checkpoint, or of a folder of `save_pretrained`.
        context: the name of one of the contexts of a dynamic encoder; None is its default.

    Raises:
        UserError: as `read_own`; and for an unknown context.
    """
    checkpoint = read_own(path)
    own = checkpoint["streamnest"]
    model: EncoderTask = build_model(OmegaConf.create(own["config"]), labels=own.get("labels"), training=False)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: weights and config do not belong together ({str(error)[:300]})") from None
    model.encoder.use_context(context)
    return model.eval()


def on_device(model: TaskT, device: str) -> TaskT:
    """Moves a model.

    Raises:
        UserError: for a device that is not there.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises differs by device
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None


def load_pretrained(path: str | Path, context: str | None = None) -> Pretraining:
    """The same of a checkpoint of pretraining.

    Raises:
        UserError: as `load_model`; and for a checkpoint of another task.
    """
    model = load_model(path, context)
    if not isinstance(model, Pretraining):
        raise UserError(f"{path} is of task={task_name(model.config)}: need a checkpoint of task=pretrain")
    return model


def check_architecture(path: str | Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint to continue from and compares it with the config of this run.

    Raises:
        UserError: naming every value of the architecture that differs.
    """
    checkpoint = read_checkpoint(path)
    theirs = checkpoint["streamnest"]["config"]
    if task_name(theirs) != task_name(config):
        raise UserError(
            f"{path} is of task={task_name(theirs)}, this run of task={task_name(config)}: see encoder_from"
        )
    found = [*differences(theirs, config), *_task_differences(theirs, config)]
    if found:
        listed = "\n".join(f"  {name}: {then!r} in the checkpoint, {now!r} in this run" for name, then, now in found)
        raise UserError(f"{path} holds another architecture:\n{listed}")
    return checkpoint


def stored_labels(path: str | Path | None) -> Any:
    """What the outputs of a checkpoint mean; None where there is no checkpoint or nothing to mean."""
    return read_checkpoint(path)["streamnest"].get("labels") if path else None


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name and values, theirs and ours, of what differs in the architecture of two configs."""
    found = []
    for group in _ARCHITECTURE:
        for key in sorted(set(ours[group]) | set(theirs.get(group, {}))):
            then, now = theirs.get(group, {}).get(key, _BEFORE.get(key)), ours[group].get(key)
            if key not in _FREE and then != now:
                found.append((f"{group}.{key}", then, now))
    return found


def _task_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The same of what shapes the head of a downstream task; what is not there has its default, as when it is built."""
    task = DOWNSTREAM.get(task_name(ours))
    if task is None:
        return []
    defaults = vars(task.Settings())
    both = [(key, *(config["task"].get(key, defaults[key]) for config in (theirs, ours))) for key in task.shaped_by]
    return [(f"task.{key}", then, now) for key, then, now in both if then != now]


def _refuse_foreign_targets(config: Any, path: str | Path) -> None:
    """A config may name any Python callable to build; from a stranger's file only our own classes are built."""
    if isinstance(config, Mapping):
        target = config.get("_target_", "streamnest.")
        if not str(target).startswith(("streamnest.", "lightning.Trainer")):
            raise UserError(f"{path} wants to build {target!r}, which is no part of streamnest: refused")
        for value in config.values():
            _refuse_foreign_targets(value, path)
