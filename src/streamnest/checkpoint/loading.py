"""Reads checkpoints without executing anything in them, and builds models from them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from streamnest.build import build_model, build_outline
from streamnest.checkpoint.hub_client import HubName, download
from streamnest.checkpoint.model_folder import CONFIG, WEIGHTS, read_folder
from streamnest.config.aliases import modernize
from streamnest.config.stored import check_config, check_labels, construct, task_class, task_name
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import of_file, require_plain, short
from streamnest.files.tensor_file import check_shapes, load_tensors, require_weights
from streamnest.pretraining import Pretraining

log = logging.getLogger(__name__)
TaskT = TypeVar("TaskT", bound=EncoderTask)
# Remedies for a folder without a checkpoint.
_MODEL = "give a checkpoint, or the folder of a run or of a model"
_CONTINUED = "give one; init_from starts a new run from the folder of a model"
# Groups that decide the shape and the function of the network; the rest may change between runs.
ARCHITECTURE = ("frontend", "encoder", "quantizer", "objective")


@dataclass
class StoredCheckpoint:
    """A checkpoint that a run continues from, read once.

    Attributes:
        path: path of the file.
        content: content of the file, in the names of this version; empty after `take`.
    """

    path: Path
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> StoredCheckpoint:
        """Reads a file.

        Raises:
            UserError: as `read_checkpoint`.
        """
        return cls(Path(path), read_checkpoint(path))

    def take(self) -> dict[str, Any]:
        """Returns the content and releases it, because it holds the weights and the state of the optimizer."""
        content, self.content = self.content, {}
        return content


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a streamnest checkpoint without executing anything in it.

    Raises:
        UserError: if the file is missing, truncated, not a checkpoint, or a checkpoint of another project.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise UserError(
            f"{path} is a folder, but a run continues from a checkpoint file: {_in_folder(path, _CONTINUED)}"
        )
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}: check the path")
    checkpoint = load_tensors(path)
    if not isinstance(checkpoint, dict) or "streamnest" not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a streamnest checkpoint: it contains no streamnest config")
    modernize(checkpoint)
    _check_content(checkpoint, path)
    return checkpoint


def read_checked(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, or a folder written by `save_pretrained`, whose config builds only classes of streamnest.

    The folder of a run stands for its `checkpoints/last.ckpt`, and `hf:ORG/NAME` for a model on a hub.

    Raises:
        UserError: as `read_checkpoint`, `read_folder`, `download` and `check_config`.
    """
    remote = HubName.of(path)
    path = Path(path) if remote is None else download(remote)
    folder = os.path.isdir(path)  # unlike `Path.is_dir` it takes names of any length
    if folder and not any((path / name).is_file() for name in (WEIGHTS, CONFIG)):
        last = path / "checkpoints/last.ckpt"
        if not last.is_file():
            raise UserError(f"{path} is not the folder of a model: it has no {WEIGHTS}: {_in_folder(path, _MODEL)}")
        _report_choice(path, last)
        return read_checked(last)
    checkpoint = modernize(read_folder(path)) if folder else read_checkpoint(path)
    _check_content(checkpoint, path)
    check_checkpoint(checkpoint, path)
    return checkpoint


@cache
def _report_choice(folder: Path, checkpoint: Path) -> None:
    """Logs which checkpoint of the folder of a run is read; once, because a command may read it several times."""
    log.warning("%s is the folder of a run: its checkpoint %s is used", folder, checkpoint)


def check_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Refuses content whose config names foreign classes, or describes other sizes than the weights have.

    Raises:
        UserError: as `check_config` and `check_shapes`.
    """
    with of_file(path):
        config = check_config(checkpoint["streamnest"]["config"])
        _check_sizes(config, checkpoint["state_dict"], path)


def _check_content(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuses weights that are not tensors, and a config or labels that are not plain data."""
    require_weights(checkpoint["state_dict"], path)
    stored = checkpoint["streamnest"]
    if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
        raise UserError(f"{path} is not a streamnest checkpoint: it contains no streamnest config")
    with of_file(path):
        require_plain(stored["config"], "config")
        require_plain(stored.get("labels"), "labels", interpolations=True)
        for group, node in stored["config"].items():
            if group in ARCHITECTURE and not isinstance(node, dict):
                raise UserError(f"{group}={short(node)} must be a mapping of names to values")


def _in_folder(folder: Path, otherwise: str) -> str:
    """Suggests a file in a folder; `otherwise` is the remedy if there is none."""
    found = sorted([*folder.glob("checkpoints/*.ckpt"), *folder.glob("*.ckpt")], key=lambda path: path.name)
    if not found:
        return otherwise
    last = next((path for path in found if path.name == "last.ckpt"), found[-1])
    return f"give a checkpoint in it, such as {last}"


def write_checkpoint(model: EncoderTask, path: str | Path) -> None:
    """Writes a model without training state, atomically; `load_model` reads it."""
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    with whole(Path(path)) as part:
        torch.save(checkpoint, part)


def load_model(path: str | Path, context: str | None = None) -> EncoderTask:
    """Builds the model of any task from the config in the checkpoint and loads its weights, in evaluation mode.

    Args:
        path: checkpoint, or folder written by `save_pretrained`.
        context: name of a context of a dynamic encoder; None is the default one.

    Raises:
        UserError: as `read_checked`; and for an unknown context.
    """
    checkpoint = read_checked(path)
    stored, state = checkpoint["streamnest"], checkpoint["state_dict"]
    with of_file(path):
        check_labels(task_name(stored["config"]), stored.get("labels"))
        foreign = any(has_foreign_class(stored["config"][group]) for group in ("task", "encoder"))
        if not foreign and issubclass(task_class(stored["config"]["task"]), DownstreamTask):
            check_shapes(state, build_outline(stored["config"], stored.get("labels")).state_dict().items(), path)
        model: EncoderTask = build_model(stored["config"], labels=stored.get("labels"), training=False)
    check_shapes(state, model.state_dict().items(), path)
    try:
        model.load_state_dict(state)
    except Exception as error:  # a file can hold tensors of any kind
        raise UserError(
            f"{path}: weights and config do not belong together ({' '.join(str(error).split())[:300]})"
        ) from None
    model.encoder.use_context(context)
    return model.eval()


def _check_sizes(config: Mapping[str, Any], state: dict[str, Any], path: str | Path) -> None:
    """Compares the large parts of a model with the weights before memory is allocated for them."""
    groups = ("encoder", "quantizer", "objective") if task_name(config) == "pretrain" else ("encoder",)
    for group in groups:
        node = config.get(group, {})
        if has_foreign_class(node):
            continue
        last = f"encoder.layers.{node.get('num_layers', 1) - 1}."
        if group == "encoder" and not any(name.startswith(last) for name in state):  # building many layers takes long
            raise UserError(f"{path}: weights and config do not belong together: there is no {last}* in the weights")
        with torch.device("meta"):
            part = construct(group, node)
        wanted = ((f"{group}.{name}", tensor) for name, tensor in part.state_dict().items())
        check_shapes(state, wanted, path)


def has_foreign_class(node: Any) -> bool:
    """True if a node names a class of the user, which may compute with its tensors."""
    return isinstance(node, Mapping) and not str(node.get("_target_", "streamnest.")).startswith("streamnest.")


def on_device(model: TaskT, device: str) -> TaskT:
    """Moves a model to a device.

    Raises:
        UserError: for a device that this machine does not have.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch raises differs by device
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None


def load_pretrained(path: str | Path, context: str | None = None) -> Pretraining:
    """Loads a checkpoint of pretraining; see `load_model`.

    Raises:
        UserError: as `load_model`; and for a checkpoint of another task.
    """
    model = load_model(path, context)
    if not isinstance(model, Pretraining):
        raise UserError(f"{path} is of task={task_name(model.config)}: give a checkpoint of task=pretrain")
    return model
