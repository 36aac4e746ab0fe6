"""Distillation: a frozen recognizer whose posteriors are the targets of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.downstream.asr.ctc_losses import aligned_divergence
from streamnest.encoder.dual_mode import delay_frames
from streamnest.errors import UserError

if TYPE_CHECKING:
    from streamnest.downstream.asr.ctc import CTCRecognizer


class Teacher:
    """A frozen recognizer in evaluation mode; not a module, so that its weights are not part of the student.

    Args:
        model: the recognizer.
        delay: encoder frames from a posterior of the teacher to the frame of the student that it is the target of.
    """

    def __init__(self, model: CTCRecognizer, delay: int) -> None:
        self.model, self.delay = model.eval().requires_grad_(False), delay

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Returns the teacher itself: copies of a model share it, because it does not change."""
        return self

    def to(self, device: torch.device) -> None:
        """Moves the teacher to the device of the student."""
        self.model.to(device)

    @torch.no_grad()
    def log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities `(B, T', V)` for the clean audio of a batch, and valid frames `(B,)`."""
        features, frames = self.model.frontend(batch.clean, batch.lengths)
        encoded, valid = self.model.encoder(self.model.input_norm(features, frames), frames)
        return self.model.log_probs(encoded), valid

    def loss(self, log_probs: Tensor, valid: Tensor, batch: Batch, usable: Tensor, first: int) -> Tensor:
        """Returns the divergence of a student from the teacher, summed over frames of usable rows and views, 0-dim.

        Args:
            log_probs: those of the student, `(views * B, T', V)`.
            valid: `(B,)` valid frames of the student.
            batch: batch of audio.
            usable: `(B,)` True for rows that count.
            first: output of the student that covers target frame 0.
        """
        target, frames = self.log_probs(batch)
        start, first = self.model.encoder.target_shift, first + self.delay
        last = torch.minimum(frames - start, valid - first)
        views = log_probs[:, first:].split(len(batch.ids))
        return torch.stack([aligned_divergence(target[:, start:], view, last, usable) for view in views]).sum()


def make_teacher(student: CTCRecognizer, teacher: CTCRecognizer, path: str) -> Teacher:
    """Builds the teacher of a student from a recognizer.

    Args:
        student: recognizer to train, whose settings have the delay.
        teacher: recognizer that was loaded from `path`.
        path: file in messages.

    Raises:
        UserError: if vocabularies or frames differ, or the delay is not a whole number of frames.
    """
    if teacher.labels != student.labels:
        raise UserError(
            f"task.teacher={path} has another vocabulary ({teacher.tokenizer.size} tokens, this run "
            f"{student.tokenizer.size}): train both on the same texts with the same task.tokenizer"
        )
    rate, frame_ms = student.sample_rate, student.encoder.frame_ms
    if teacher.sample_rate != rate or abs(teacher.encoder.frame_ms - frame_ms) > 1e-6:
        raise UserError(
            f"task.teacher={path} has frames of {teacher.encoder.frame_ms:g} ms at {teacher.sample_rate} Hz, this run "
            f"of {frame_ms:g} ms at {rate} Hz: choose the same encoder.subsampling_factor and front end"
        )
    return Teacher(teacher, delay_frames("task.teacher_delay_ms", student.settings.teacher_delay_ms, frame_ms))
