"""`quantizer=teacher`: loads the teacher of a run from the checkpoint that its config names."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

from streamnest.build import find_task
from streamnest.checkpoint.loading import StoredCheckpoint, load_model
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.targets import Teacher, TeacherConfig, TeacherQuantizer
from streamnest.targets.quantizer import checked_layers


def with_teacher(cfg: DictConfig) -> tuple[DictConfig, Teacher | None]:
    """Loads the teacher of a run, and adds its width to the config.

    Args:
        cfg: composed config; without `quantizer=teacher` it is returned unchanged.

    Returns:
        The config, and the teacher or None.

    Raises:
        UserError: naming `quantizer.checkpoint`, as `load_model`; and for a layer that it does not have.
    """
    node = cfg.quantizer
    if node.get("_target_") != TeacherConfig._target_ or not issubclass(find_task(cfg), Pretraining):
        return cfg, None
    layer = OmegaConf.to_container(node.layer) if OmegaConf.is_config(node.layer) else node.layer
    teacher = load_teacher(node.checkpoint, checked_layers(layer), node.context)
    cfg = copy.deepcopy(cfg)
    cfg.quantizer.width = teacher.width
    return cfg, teacher


def load_teacher(path: str | None, layers: tuple[int, ...], context: str | None = None) -> Teacher:
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


def attach_teacher(model: Pretraining, teacher: Teacher, stored: StoredCheckpoint | None) -> None:
    """Attaches a teacher to the quantizer of a run.

    Args:
        model: model of the run.
        teacher: teacher from `with_teacher`.
        stored: checkpoint that the run continues from, whose codes must be those of the same teacher.

    Raises:
        UserError: if its frames cannot be aligned, or it is not the teacher of the stored checkpoint.
    """
    quantizer = model.quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    quantizer.attach(teacher, model.sample_rate, model.frontend.hop * quantizer.stack)
    if stored and stored.content["state_dict"]["quantizer.fingerprint"].tolist() != quantizer.fingerprint.tolist():
        raise UserError(
            f"quantizer.checkpoint={quantizer.checkpoint} is not the teacher of {stored.path} (other weights, context "
            "or layer), so that codes would have another meaning: give the same teacher, or start a new run with "
            f"init_from={stored.path}"
        )
