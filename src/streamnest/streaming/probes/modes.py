"""Modes: inference and training, with and without gradients, autocast and activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.futures import FUTURES, future_leak, leak_check, short_audio
from streamnest.streaming.probes.reach import Stage
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak, first_difference

INFERENCE_MODES = (
    INFERENCE,
    Mode("inference with gradients", gradients=True),
    Mode("inference in bfloat16", bfloat16=True),
    Mode("inference in torch.inference_mode", inference=True),
    Mode("validation", "validation"),
)
TRAINING_MODES = (
    TRAINING,
    TRAINING_BFLOAT16,
    Mode("training without gradients", "training", training=True),
    Mode("training, masked", "training", training=True, gradients=True, hide=True, step=1),
    Mode("training, activation checkpointing", "training", training=True, gradients=True, recompute=True, step=1_000),
    Mode("training in bfloat16", "training", training=True, gradients=True, bfloat16=True, step=100),
    Mode("training, noisy input", "training", training=True, gradients=True, noisy=True, step=10_000),
    Mode("training mode", training=True),
)


def modes(model: EncoderTask, seed: int) -> list[Check]:
    """Checks that audio after a chunk changes no stage before it, in any mode."""
    subjects = [Subject(model), Subject(model, torch.float32)]
    clean, gradient = target_audio(subjects[0]), _gradient(subjects[1])
    return [
        leak_check(
            "stages in inference",
            chain(mode_leaks(subjects, INFERENCE_MODES), mode_leaks(subjects, INFERENCE_MODES[:1], rows=32)),
        ),
        leak_check(
            "stages in training",
            chain(mode_leaks(subjects, TRAINING_MODES), mode_leaks(subjects, TRAINING_MODES[:2], rows=32)),
        ),
        Check(
            "clean audio of the targets",
            "no influence on the encoder",
            f"influences {clean}" if clean else "no influence",
            clean is None,
        ),
        Check("gradients in training", "none for later audio", gradient or "none", gradient is None),
    ]


def mode_leaks(
    subjects: Sequence[Subject], chosen: Sequence[Mode], futures: Sequence[str] = FUTURES, rows: int = 3
) -> Iterator[Leak]:
    """Finds leaks in each mode; bfloat16 runs on the last subject, every other mode on the first.

    Args:
        subjects: the same model in float64 and float32, or in float32 only.
        chosen: modes to run.
        futures: replacements of the audio after the boundary.
        rows: rows of the batch, some of them padded.
    """
    for mode in chosen:
        subject = subjects[-1] if mode.bfloat16 else subjects[0]
        audio, boundary = short_audio(subject.reach, rows)
        lengths = audio.shape[1] - torch.arange(rows) % 3 * (2 * subject.reach.hop + 7)
        difference = future_leak(subject, mode, audio, boundary, futures, lengths)
        if difference is not None:
            yield difference.at(mode.name + subject.weights)


def target_audio(subject: Subject) -> str | None:
    """Finds the stage that changes with the clean audio of the targets, while the noisy audio stays the same."""
    mode = Mode("noisy input", "training", training=True, gradients=True, noisy=True)
    audio, _ = short_audio(subject.reach, rows=2)
    lengths = torch.full((2,), audio.shape[1])
    before, after = subject.run(audio, lengths, mode), subject.run(audio, lengths, TRAINING)

    def after_front_end(trace: list[tuple[Stage, Tensor]]) -> list[tuple[Stage, Tensor]]:
        return [part for part in trace if part[0].label != "front end"]

    traces = after_front_end(before), after_front_end(after)
    difference = first_difference(*traces, lambda stage: (0, subject.reach.valid(stage, lengths)))
    return None if difference is None else difference.stage.label


def _gradient(subject: Subject) -> str | None:
    """Finds a gradient of outputs before a boundary for features after it, with activation checkpointing."""
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
    known, visible = (int(subject.reach.known(Stage("", kind), boundary)[0]) for kind in ("encoder", "features"))
    if not outputs[0].requires_grad:
        return None
    weight = torch.randn(outputs[0].shape[-1], generator=torch.Generator().manual_seed(1)).to(outputs[0])
    (slope,) = torch.autograd.grad((outputs[0][0, :known] @ weight).sum(), features[0])
    late = slope[0, :, visible:].abs().sum(0).nonzero()
    return f"from feature frame {visible + int(late[0])}" if len(late) else None
