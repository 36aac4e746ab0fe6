"""Reads checkpoints safely, and compares them with the model and the config that they are loaded into."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from streamnest.build import build_model, build_outline
from streamnest.checkpoint.model_folder import CONFIG, WEIGHTS, read_folder
from streamnest.config.aliases import modernize
from streamnest.config.stored import PARTS, check_config, check_labels, construct, task_class, task_name
from streamnest.downstream.base import DownstreamTask
from streamnest.encoder import EncoderConfig
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import of_file, require_plain, short
from streamnest.files.tensor_file import check_shapes, load_tensors, require_weights
from streamnest.objectives import MaskedAndNextTokenConfig
from streamnest.pretraining import Pretraining

log = logging.getLogger(__name__)
TaskT = TypeVar("TaskT", bound=EncoderTask)

# Groups that decide the shape and the function of the network; the rest may change between runs.
_ARCHITECTURE = ("frontend", "encoder", "quantizer", "objective")
# Values that apply to checkpoints written before the key existed.
_BEFORE = {"codes": "random"}

# Entries that Lightning needs to continue, and their types.
_STATE = {"global_step": int, "epoch": int, "pytorch-lightning_version": str, "loops": dict, "callbacks": dict}
_STATE |= {"optimizer_states": list, "lr_schedulers": list}


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
        raise UserError(f"{path} is a folder, and a run continues from a file: {_in_folder(path)}")
    if not os.path.isfile(path):
        raise UserError(f"no checkpoint at {path}: check the path")
    checkpoint = load_tensors(path)
    if not isinstance(checkpoint, dict) or "streamnest" not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of streamnest: it has no config of streamnest")
    modernize(checkpoint)
    _check_content(checkpoint, path)
    return checkpoint


def read_own(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, or a folder written by `save_pretrained`, whose config builds only classes of streamnest.

    The folder of a run stands for its `checkpoints/last.ckpt`.

    Raises:
        UserError: as `read_checkpoint`, `read_folder` and `check_config`.
    """
    path = Path(path)
    folder = os.path.isdir(path)  # unlike `Path.is_dir` it takes names of any length
    if folder and not any((path / name).is_file() for name in (WEIGHTS, CONFIG)):
        last = path / "checkpoints/last.ckpt"
        if not last.is_file():
            raise UserError(f"{path} is not the folder of a model: it has no {WEIGHTS}. {_in_folder(path)}")
        log.warning("%s is the folder of a run: its checkpoint %s is used", path, last)
        return read_own(last)
    checkpoint = modernize(read_folder(path)) if folder else read_checkpoint(path)
    _check_content(checkpoint, path)
    check_own(checkpoint, path)
    return checkpoint


def check_own(checkpoint: Mapping[str, Any], path: str | Path) -> None:
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
    own = checkpoint["streamnest"]
    if not isinstance(own, dict) or not isinstance(own.get("config"), dict):
        raise UserError(f"{path} is not a checkpoint of streamnest: it has no config of streamnest")
    with of_file(path):
        require_plain(own["config"], "config")
        require_plain(own.get("labels"), "labels", interpolations=True)
        for group, node in own["config"].items():
            if group in _ARCHITECTURE and not isinstance(node, dict):
                raise UserError(f"{group}={short(node)} must be a mapping of names to values")


def _in_folder(folder: Path) -> str:
    """Suggests a file in a folder."""
    found = sorted([*folder.glob("checkpoints/*.ckpt"), *folder.glob("*.ckpt")], key=lambda path: path.name)
    if not found:
        return "init_from starts a new run from the folder of a model"
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
        UserError: as `read_own`; and for an unknown context.
    """
    checkpoint = read_own(path)
    own, state = checkpoint["streamnest"], checkpoint["state_dict"]
    with of_file(path):
        check_labels(task_name(own["config"]), own.get("labels"))
        foreign = any(_has_foreign(own["config"][group]) for group in ("task", "encoder"))
        if not foreign and issubclass(task_class(own["config"]["task"]), DownstreamTask):
            check_shapes(state, build_outline(own["config"], own.get("labels")).state_dict().items(), path)
        model: EncoderTask = build_model(own["config"], labels=own.get("labels"), training=False)
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
        if _has_foreign(node):
            continue
        last = f"encoder.layers.{node.get('num_layers', 1) - 1}."
        if group == "encoder" and not any(name.startswith(last) for name in state):  # building many layers takes long
            raise UserError(f"{path}: weights and config do not belong together: there is no {last}* in the weights")
        with torch.device("meta"):
            part = construct(group, node)
        wanted = ((f"{group}.{name}", tensor) for name, tensor in part.state_dict().items())
        check_shapes(state, wanted, path)


def _has_foreign(node: Any) -> bool:
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


def check_architecture(checkpoint: StoredCheckpoint, config: Mapping[str, Any]) -> None:
    """Compares a checkpoint to continue from with the config of this run.

    Raises:
        UserError: naming every value of the architecture that differs.
    """
    path, theirs = checkpoint.path, checkpoint.content["streamnest"]["config"]
    if task_name(theirs) != task_name(config):
        raise UserError(
            f"{path} is of task={task_name(theirs)}, this run of task={task_name(config)}: encoder_from={path} starts "
            "a run of another task with its encoder"
        )
    found = [*differences(theirs, config), *_task_differences(theirs, config)]
    if found:
        listed = "\n".join(f"  {name}: {then!r} in the checkpoint, {now!r} in this run" for name, then, now in found)
        raise UserError(f"{path} has another architecture:\n{listed}")


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
    own = checkpoint.content["streamnest"]
    with of_file(checkpoint.path):
        if task_name(own["config"]) != task:
            return None
        check_labels(task, own.get("labels"))
    return own.get("labels")


def fields_with(role: str, *schemas: type) -> set[str]:
    """Names of the fields of config schemas that have a role; see `EncoderConfig`."""
    return {field.name for schema in schemas for field in fields(schema) if role in field.metadata.get("roles", ())}


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists what differs in the architecture of two configs: name, stored value, value of this run."""
    found, free = [], fields_with("training", EncoderConfig, MaskedAndNextTokenConfig)
    for group in _ARCHITECTURE:
        for key in sorted(set(ours[group]) | set(theirs.get(group, {}))):
            then, now = theirs.get(group, {}).get(key, _BEFORE.get(key)), ours[group].get(key)
            if key not in free and then != now:
                found.append((f"{group}.{key}", then, now))
    return found


def _task_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists the same for the settings that shape the head of a downstream task; a missing one has its default."""
    node = ours["task"]
    if _has_foreign(node) and node["_target_"] not in PARTS["task"]:
        return []
    task = task_class(node)
    if not issubclass(task, DownstreamTask):
        return []
    defaults = vars(task.Settings())
    both = [(key, *(config["task"].get(key, defaults[key]) for config in (theirs, ours))) for key in task.shaped_by]
    return [(f"task.{key}", then, now) for key, then, now in both if then != now]
