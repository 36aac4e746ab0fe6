"""Left context: the first sample and frame that an output depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.sounds import noise
from streamnest.streaming.probes.subject import IN_USE, TRAINING, Mode, Subject
from streamnest.streaming.probes.trace import Trace, first_difference


def left_context(model: EncoderTask, seed: int) -> list[Check]:
    """The past that stages hear: at most and at least what is declared."""
    subject = Subject(model).perturb(seed)
    left = subject.reach.context.left
    declared = "the start" if left is None else f"{left} frames before its chunk"
    found = _layers(subject) or _whole(subject)
    return [Check("left context of each layer", declared, found or declared, found is None)]


def _layers(subject: Subject) -> str | None:
    """The first layer whose attention does not begin where it is declared, by changing its input before a frame."""
    reach, left = subject.reach, subject.reach.context.left
    end = max(2, -(-8 // reach.chunk)) * reach.chunk
    past = int(STREAM_LEFT_MS / reach.encoder.frame_ms) if left is None else end + left
    audio = noise((past + 2 * reach.chunk + 2) * reach.block)
    for mode in (IN_USE, TRAINING):
        before = subject.run(audio, mode=mode)
        frames = int(reach.valid(Stage("", "stem"), torch.tensor(audio.shape[1])))
        for layer in range(len(subject.model.encoder.layers)):
            for changed in (1,) if left is None else (end, end + 1):
                first = reach.first_attending(changed)
                declared = frames if first is None else first
                found = _last_changed(before, _changed(subject, layer, changed, audio, mode), layer) + 1
                if found != declared:
                    return (
                        f"block {layer} attention: frames below {found} hear what lies before frame {changed}, "
                        f"declared: below {declared} ({mode.name})"
                    )
    return None


def _changed(subject: Subject, layer: int, frames: int, audio: Tensor, mode: Mode) -> Trace:
    """A run in which the first frames of the input of a layer are others."""

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
    """The first stage that hears samples from before its declared past, by changing the waveform."""
    reach = subject.reach
    start = 3 * reach.hop + 1
    last = reach.later(Stage("", "encoder"), start)
    audio = noise((20 if last is None else last + reach.chunk + 2) * reach.block)
    moved = audio.clone()
    moved[:, :start] += 0.37
    length = torch.tensor([audio.shape[1]])

    def limits(stage: Stage) -> tuple[Tensor, Tensor]:
        frames, later = reach.valid(stage, length), reach.later(stage, start)
        return frames if later is None else torch.tensor([later]), frames

    for mode in (IN_USE, TRAINING):
        found = first_difference(subject.run(audio, mode=mode), subject.run(moved, mode=mode), limits)
        if found is not None:
            return f"the {found.stage.label} hears too far back (frame {found.frame}, {mode.name})"
    return None
