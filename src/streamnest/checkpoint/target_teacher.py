"""`quantizer=teacher`: loads the teacher of a run from the checkpoint that its config names."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

from streamnest.build import find_task
from streamnest.checkpoint.loading import StoredCheckpoint, check_checkpoint, load_model
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.targets import Teacher, TeacherConfig, TeacherQuantizer
from streamnest.targets.config import checked_layers


def with_teacher(
    cfg: DictConfig, stored: StoredCheckpoint | None = None, load: bool = True
) -> tuple[DictConfig, Teacher | None]:
    """Loads the teacher of a run, and adds its width to the config.

    Args:
        cfg: composed config; without `quantizer=teacher` it is returned unchanged.
        stored: checkpoint that the run continues from, whose codes must be those of the same teacher.
        load: load the teacher; False takes only the width, from `stored`, because a finished run needs no teacher.

    Returns:
        The config, and the teacher or None.

    Raises:
        UserError: naming `quantizer.checkpoint`, as `load_model`; for a layer that it does not have; and for a teacher
            that is not the one of the stored checkpoint.
    """
    node = cfg.quantizer
    if node.get("_target_") != TeacherConfig._target_ or not issubclass(find_task(cfg), Pretraining):
        return cfg, None
    if stored and not load:
        check_checkpoint(stored.content, stored.path)
        cfg = copy.deepcopy(cfg)
        cfg.quantizer.width = (stored.content["streamnest"]["config"].get("quantizer") or {}).get("width")
        return cfg, None
    layer = OmegaConf.to_container(node.layer) if OmegaConf.is_config(node.layer) else node.layer
    teacher = load_target_teacher(node.checkpoint, checked_layers(layer), node.context)
    if stored:
        _require_same(teacher, node.checkpoint, stored)
    cfg = copy.deepcopy(cfg)
    cfg.quantizer.width = teacher.width
    return cfg, teacher


def load_target_teacher(path: str | None, layers: tuple[int, ...], context: str | None = None) -> Teacher:
    """Loads front end and encoder of a checkpoint of any task as a teacher.

    Args:
        path: checkpoint, run folder or model folder.
        layers: layers in ascending order; 0 is the output of the subsampling.
        context: name of a context of a dynamic encoder; None is the default one.

    Raises:
        UserError: naming `quantizer.checkpoint`, as `load_model`; and for a layer that it does not have.
    """
    if not path:
        raise UserError("quantizer=teacher needs quantizer.checkpoint=PATH, the checkpoint of the teacher")
    try:
        model = load_model(path, context)
    except UserError as error:
        raise UserError(f"quantizer.checkpoint={path} cannot be the teacher of this run: {error}") from None
    last = len(model.encoder.layers)
    if layers[-1] > last:
        raise UserError(
            f"quantizer.layer={layers[-1]}: the teacher {path} has {last} layers: give a layer from 0 to {last}"
        )
    return Teacher(model.frontend, model.input_norm, model.encoder, layers)


def attach_teacher(model: Pretraining, teacher: Teacher) -> None:
    """Attaches a teacher from `with_teacher` to the quantizer of a run.

    Raises:
        UserError: if the frames of teacher and model cannot be aligned.
    """
    quantizer = model.quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    try:
        quantizer.attach(teacher, model.sample_rate, model.frontend.hop * quantizer.stack)
    except UserError as error:
        raise UserError(f"quantizer.checkpoint={quantizer.checkpoint}: {error}") from None


def attach_stored_teacher(model: Pretraining, path: str) -> None:
    """Attaches the teacher that a trained model had, so that it computes targets again.

    Args:
        model: model of a checkpoint with `quantizer=teacher`.
        path: checkpoint of its teacher.

    Raises:
        UserError: for targets without a teacher, as `load_target_teacher`, and for another teacher.
    """
    quantizer = model.quantizer
    if not isinstance(quantizer, TeacherQuantizer):
        raise UserError("the targets of this model need no teacher: it was not trained with quantizer=teacher")
    teacher = load_target_teacher(path, quantizer.layers, quantizer.context)
    if bytes(quantizer.fingerprint.tolist()) != teacher.fingerprint():
        raise UserError(
            f"{path} is not the teacher of this model (other weights, context or layer): give the checkpoint that was "
            f"quantizer.checkpoint={quantizer.checkpoint} in its training"
        )
    attach_teacher(model, teacher)


def _require_same(teacher: Teacher, path: str, stored: StoredCheckpoint) -> None:
    """Refuses to continue a run with another teacher, whose codes have another meaning."""
    fingerprint = stored.content["state_dict"].get("quantizer.fingerprint")
    if fingerprint is not None and bytes(fingerprint.tolist()) != teacher.fingerprint():
        raise UserError(
            f"quantizer.checkpoint={path} is not the teacher of {stored.path} (other weights, context or layer), so "
            "that codes would have another meaning: give the same teacher, or start a new run with init_from"
        )
