"""Quick check before training: all modes, batches and kinds of weights, and a sample of the other probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.batches import row_leaks
from streamnest.streaming.probes.futures import ENDED
from streamnest.streaming.probes.latencies import promises
from streamnest.streaming.probes.loudness import loudness_leaks
from streamnest.streaming.probes.modes import INFERENCE_MODES, TRAINING_MODES, mode_leaks, target_audio
from streamnest.streaming.probes.padding import amount_leaks, padding_leaks
from streamnest.streaming.probes.positions import far_leaks, length_leaks
from streamnest.streaming.probes.random_batches import ROWS, random_leaks
from streamnest.streaming.probes.subject import INFERENCE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak
from streamnest.streaming.probes.weights import other_weights

# Parameters from which on a model is large, and is checked with fewer and smaller batches.
_LARGE = 30_000_000
_FAR_SECONDS = 10.8
_RANDOM_BATCHES, _RANDOM_SECONDS = 16, 5.0


def quick_check(model: EncoderTask, brief: bool = False) -> str | None:
    """Returns the first reason not to train a streaming preset, as a sentence; None if there is none.

    Args:
        model: model with a limited right context, which is not changed.
        brief: run only what depends on the context, for the further contexts of a dynamic encoder.
    """
    return next(_reasons(model, brief), None)


def _reasons(model: EncoderTask, brief: bool) -> Iterator[str]:
    for check in promises(model, 0):
        if not check.passed:
            yield f"the encoder has the context {check.measured}, but its config has {check.declared}"
    subject = Subject(model, torch.float32)
    large = sum(parameter.numel() for parameter in subject.model.parameters()) > _LARGE
    rows = 1 if large else 3
    yield from _later(subject, (INFERENCE, TRAINING_BFLOAT16) if brief else (*INFERENCE_MODES, *TRAINING_MODES), rows)
    yield from _later(subject, (TRAINING_BFLOAT16,), 3 if large else 1 if brief else 32)
    if not brief:
        yield from _sampled(subject, large)
        yield from _random(subject, large)
    yield from _across(subject, INFERENCE, (4,) if brief or large else (*ROWS[1:], 32))
    yield from _across(subject, TRAINING_BFLOAT16, (4,) if brief or large else (3, 4, 32))
    if not brief:
        yield from _across(subject, TRAINING, (4,))
    if not large and not brief:
        yield from _padded(model)
    for other in other_weights(subject, trials=0 if brief else 1 if large else 2):
        yield from _later(other, (INFERENCE, TRAINING_BFLOAT16), rows)
        yield from _across(other, TRAINING_BFLOAT16, (3,))


def _later(subject: Subject, modes: Sequence[Mode], rows: int) -> Iterator[str]:
    for mode in modes if subject.limited else ():
        yield from map(_sees_future, mode_leaks([subject], [mode], ("shifted", ENDED), rows))


def _across(subject: Subject, mode: Mode, sizes: Sequence[int]) -> Iterator[str]:
    if not subject.rowwise([mode]):
        return
    for rows in sizes:
        for leak in row_leaks(subject, mode, rows):
            yield f"{leak.stage.label} depends on other rows of the batch ({leak.place})"
    for leak in padding_leaks(subject, mode):
        yield f"{leak.stage.label} depends on padding ({leak.place})"


def _padded(model: EncoderTask) -> Iterator[str]:
    """Checks the amount of padding, and the influence of the clean audio of the targets, in float64."""
    double = Subject(model).without_dropout()
    for mode in double.rowwise((INFERENCE, TRAINING)):
        for leak in amount_leaks(double, mode):
            yield f"{leak.stage.label} depends on padding ({leak.place})"
    stage = target_audio(double)
    if stage is not None:
        yield f"{stage} depends on the clean audio of the targets (training)"


def _sampled(subject: Subject, large: bool) -> Iterator[str]:
    """Checks some of the sounds and positions that `verify` measures."""
    if not subject.limited:
        return
    yield from map(
        _sees_future, loudness_leaks(subject, INFERENCE, ("clipped", "silent", "soft", "gaps"), ("loud", "click"))
    )
    frames = int(1000 * _FAR_SECONDS / subject.reach.encoder.frame_ms) // subject.reach.chunk * subject.reach.chunk
    ends = [subject.reach.chunk, frames - subject.reach.chunk]
    for mode in (INFERENCE,) if large else (INFERENCE, TRAINING_BFLOAT16):
        yield from map(_sees_future, far_leaks(subject, frames + 1, ends, mode))
    if not large:
        yield from map(_sees_future, length_leaks(subject, range(subject.reach.chunk + 1, 2 * subject.reach.chunk)))


def _random(subject: Subject, large: bool) -> Iterator[str]:
    if not subject.limited:
        return
    for leak in random_leaks([subject], 0, _RANDOM_BATCHES // 4 if large else _RANDOM_BATCHES, _RANDOM_SECONDS):
        yield f"{leak.stage.label} depends on later audio or other rows ({leak.place})"


def _sees_future(leak: Leak) -> str:
    return (
        f"{leak.stage.label} depends on audio after the declared look-ahead ({leak.place}): this encoder cannot stream"
    )
