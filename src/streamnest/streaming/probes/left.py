"""Left context: the first sample and frame that an output depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, Mode, Subject
from streamnest.streaming.probes.trace import Trace, first_difference


def left_context(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that the left context of each stage is exactly the declared one."""
    subject = Subject(model).perturb(seed)
    left = subject.reach.context.left
    declared = "unlimited" if left is None else f"{left} frames before its chunk"
    fault = _layers(subject) or _whole(subject)
    return [Check("left context of each layer", declared, fault or declared, fault is None)]


def _layers(subject: Subject) -> str | None:
    """Finds the first layer whose attention has another left context, by changing its input before a frame."""
    reach, left = subject.reach, subject.reach.context.left
    end = max(2, -(-8 // reach.chunk)) * reach.chunk
    past = int(STREAM_LEFT_MS / reach.encoder.frame_ms) if left is None else end + left
    audio = noise((past + 2 * reach.chunk + 2) * reach.span)
    for mode in (INFERENCE, TRAINING):
        before = subject.run(audio, mode=mode)
        frames = int(reach.valid(Stage("", "subsampling"), torch.tensor(audio.shape[1])))
        for layer in range(len(subject.model.encoder.layers)):
            for changed in (1,) if left is None else (end, end + 1):
                first = reach.first_attending(changed)
                declared = frames if first is None else first
                measured = _last_changed(before, _changed(subject, layer, changed, audio, mode), layer) + 1
                if measured != declared:
                    return (
                        f"layer {layer} attention: frames below {measured} depend on frames below {changed}, "
                        f"declared: below {declared} ({mode.name})"
                    )
    return None


def _changed(subject: Subject, layer: int, frames: int, audio: Tensor, mode: Mode) -> Trace:
    """Runs the model with the first frames of the input of a layer replaced."""

    def change(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0].clone()
        x[:, :frames] = x[:, :frames].flip(-1) + 0.5
        return (x, *args[1:])

    handle = subject.model.encoder.layers[layer].register_forward_pre_hook(change)
    try:
        return subject.run(audio, mode=mode)
    finally:
        handle.remove()


def _last_changed(before: Trace, after: Trace, layer: int) -> int:
    one, other = (_attention(trace, layer) for trace in (before, after))
    changed = (one != other).any(-1)[0].nonzero()
    return int(changed.max()) if len(changed) else -1


def _attention(trace: Trace, layer: int) -> Tensor:
    return next(x for stage, x in trace if (stage.kind, stage.layer) == ("attention", layer))


def _whole(subject: Subject) -> str | None:
    """Finds the first stage that depends on samples before its left context, by changing the waveform."""
    reach = subject.reach
    start = 3 * reach.hop + 1
    last = reach.later(Stage("", "encoder"), start)
    audio = noise((20 if last is None else last + reach.chunk + 2) * reach.span)
    moved = audio.clone()
    moved[:, :start] += 0.37
    length = torch.tensor([audio.shape[1]])

    def limits(stage: Stage) -> tuple[Tensor, Tensor]:
        frames, later = reach.valid(stage, length), reach.later(stage, start)
        return frames if later is None else torch.tensor([later]), frames

    for mode in (INFERENCE, TRAINING):
        difference = first_difference(subject.run(audio, mode=mode), subject.run(moved, mode=mode), limits)
        if difference is not None:
            place = f"frame {difference.frame}, {mode.name}"
            return f"{difference.stage.label} depends on audio before its left context ({place})"
    return None
