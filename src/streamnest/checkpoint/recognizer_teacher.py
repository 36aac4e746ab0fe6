"""Loading of the teacher that a run of `task=ctc` names."""

from __future__ import annotations

from streamnest.checkpoint.loading import load_model
from streamnest.config.stored import task_name
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.asr.teacher import make_teacher
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError


def load_recognizer_teacher(model: EncoderTask) -> None:
    """Gives a recognizer the teacher that its `task.teacher` names, for training; does nothing if it names none.

    Only training needs the teacher: loading a checkpoint never opens the file that its config names.

    Raises:
        UserError: as `load_model` and `make_teacher`; and for a checkpoint of another task.
    """
    if not isinstance(model, CTCRecognizer) or model.settings.teacher is None:
        return
    path = model.settings.teacher
    if not path.strip():
        raise UserError(f"task.teacher={path} is empty: give a checkpoint, or task.teacher=null for none")
    try:
        teacher = load_model(path)
    except UserError as error:
        raise UserError(f"task.teacher: {error}") from None
    if not isinstance(teacher, CTCRecognizer):
        raise UserError(f"task.teacher={path} is of task={task_name(teacher.config)}: give a checkpoint of task=ctc")
    model.teacher = make_teacher(model, teacher, path)
