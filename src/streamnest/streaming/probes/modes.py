"""Modes: in use and while training, with and without gradients, autocast and recomputation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import FUTURES, future_leak, leak_check, short_audio
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.subject import IN_USE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak, first_difference

USE = (
    IN_USE,
    Mode("in use, with gradients", gradients=True),
    Mode("in use, bfloat16", bfloat16=True),
    Mode("in inference mode", inference=True),
    Mode("in validation", "validation"),
)
TRAIN = (
    TRAINING,
    TRAINING_BFLOAT16,
    Mode("while training, without gradients", "training", training=True),
    Mode("while training, masked", "training", training=True, gradients=True, hide=True, step=1),
    Mode("while training, recomputed", "training", training=True, gradients=True, recompute=True, step=1_000),
    Mode("while training, bfloat16", "training", training=True, gradients=True, bfloat16=True, step=100),
    Mode("while training, mixed", "training", training=True, gradients=True, mixed=True, step=10_000),
    Mode("in training mode", training=True),
)


def modes(model: EncoderTask, seed: int) -> list[Check]:
    """Audio after a chunk changes no stage before it, in any mode."""
    subjects = [Subject(model), Subject(model, torch.float32)]
    apart, gradient = target_audio(subjects[0]), _gradient(subjects[1])
    return [
        leak_check("stages", chain(mode_leaks(subjects, USE), mode_leaks(subjects, USE[:1], rows=32))),
        leak_check(
            "stages, training mode", chain(mode_leaks(subjects, TRAIN), mode_leaks(subjects, TRAIN[:2], rows=32))
        ),
        Check(
            "audio of the targets",
            "not in the representation",
            f"{apart} takes it" if apart else "not in it",
            apart is None,
        ),
        Check("gradients while training", "none from past a chunk", gradient or "none", gradient is None),
    ]


def mode_leaks(
    subjects: Sequence[Subject], chosen: Sequence[Mode], futures: Sequence[str] = FUTURES, rows: int = 3
) -> Iterator[Leak]:
    """Leaks by mode; a mode runs in the first precision that it can have.

    Args:
        subjects: the same model in float64 and float32, or in float32 alone.
        chosen: modes.
        futures: what replaces the audio after the boundary.
        rows: in the batch, some of them padded.
    """
    for mode in chosen:
        subject = subjects[-1] if mode.bfloat16 else subjects[0]
        audio, boundary = short_audio(subject.reach, rows)
        lengths = audio.shape[1] - torch.arange(rows) % 3 * (2 * subject.reach.hop + 7)
        found = future_leak(subject, mode, audio, boundary, futures, lengths)
        if found is not None:
            yield found.at(mode.name + subject.weights)


def target_audio(subject: Subject) -> str | None:
    """The stage that changes with the clean audio of the targets, of a mixed batch whose noisy audio stays."""
    mode = Mode("mixed", "training", training=True, gradients=True, mixed=True)
    audio, _ = short_audio(subject.reach, rows=2)
    lengths = torch.full((2,), audio.shape[1])
    before, after = subject.run(audio, lengths, mode), subject.run(audio, lengths, TRAINING)

    def heard(trace: list[tuple[Stage, Tensor]]) -> list[tuple[Stage, Tensor]]:
        return [part for part in trace if part[0].label != "front end"]

    found = first_difference(heard(before), heard(after), lambda stage: (0, subject.reach.valid(stage, lengths)))
    return None if found is None else f"the {found.stage.label}"


def _gradient(subject: Subject) -> str | None:
    """A gradient of known outputs for features that they must not hear, recomputed as training does it."""
    audio, boundary = short_audio(subject.reach)
    model, features = subject.model, list[Tensor]()

    def require(_module: object, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features.append(args[0].detach().requires_grad_())
        return features[0], args[1]

    outputs = list[Tensor]()
    handles = [
        model.encoder.register_forward_pre_hook(require),
        model.encoder.register_forward_hook(lambda _m, _i, out: outputs.append(out[0])),
    ]
    try:
        subject.run(audio, mode=TRAINING_BFLOAT16)
    finally:
        for handle in handles:
            handle.remove()
    known, heard = (int(subject.reach.known(Stage("", kind), boundary)[0]) for kind in ("encoder", "features"))
    if not outputs[0].requires_grad:
        return None
    weight = torch.randn(outputs[0].shape[-1], generator=torch.Generator().manual_seed(1)).to(outputs[0])
    (slope,) = torch.autograd.grad((outputs[0][0, :known] @ weight).sum(), features[0])
    late = slope[0, :, heard:].abs().sum(0).nonzero()
    return f"from feature frame {heard + int(late[0])}" if len(late) else None
