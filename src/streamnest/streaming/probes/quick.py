"""The quick check before training: all modes, batches and weights; a sample of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.probes.batches import neighbour_leaks
from streamnest.streaming.probes.draws import ROWS, drawn_leaks
from streamnest.streaming.probes.futures import ENDED
from streamnest.streaming.probes.latencies import promises
from streamnest.streaming.probes.loudness import loudness_leaks
from streamnest.streaming.probes.modes import TRAIN, USE, mode_leaks, target_audio
from streamnest.streaming.probes.padding import amount_leaks, padding_leaks
from streamnest.streaming.probes.places import far_leaks, length_leaks
from streamnest.streaming.probes.subject import IN_USE, TRAINING, TRAINING_BFLOAT16, Mode, Subject
from streamnest.streaming.probes.trace import Leak
from streamnest.streaming.probes.weights import other_weights

# Weights from which on a model is large: fewer draws and smaller batches then.
_LARGE = 30_000_000
_FAR_SECONDS = 10.8
_DRAWS, _DRAWN_SECONDS = 16, 5.0


def quick_check(model: EncoderTask, brief: bool = False) -> str | None:
    """The first reason not to train a streaming preset, as a sentence; None if there is none.

    Args:
        model: model with a limited right context; it is left as it is.
        brief: only what depends on the context, for the further contexts of a dynamic encoder.
    """
    return next(_reasons(model, brief), None)


def _reasons(model: EncoderTask, brief: bool) -> Iterator[str]:
    for check in promises(model, 0):
        if not check.passed:
            yield f"the encoder runs with a context of {check.measured}, but its config says {check.declared}"
    subject = Subject(model, torch.float32)
    large = sum(parameter.numel() for parameter in subject.model.parameters()) > _LARGE
    rows = 1 if large else 3
    yield from _later(subject, (IN_USE, TRAINING_BFLOAT16) if brief else (*USE, *TRAIN), rows)
    yield from _later(subject, (TRAINING_BFLOAT16,), 3 if large else 1 if brief else 32)
    if not brief:
        yield from _sampled(subject, large)
        yield from _drawn(subject, large)
    yield from _across(subject, IN_USE, (4,) if brief or large else (*ROWS[1:], 32))
    yield from _across(subject, TRAINING_BFLOAT16, (4,) if brief or large else (3, 4, 32))
    if not brief:
        yield from _across(subject, TRAINING, (4,))
    if not large and not brief:
        yield from _padded(model)
    for other in other_weights(subject, draws=0 if brief else 1 if large else 2):
        yield from _later(other, (IN_USE, TRAINING_BFLOAT16), rows)
        yield from _across(other, TRAINING_BFLOAT16, (3,))


def _later(subject: Subject, modes: Sequence[Mode], rows: int) -> Iterator[str]:
    for mode in modes if subject.promised else ():
        yield from map(_hears, mode_leaks([subject], [mode], ("shifted", ENDED), rows))


def _across(subject: Subject, mode: Mode, sizes: Sequence[int]) -> Iterator[str]:
    if not subject.rowwise([mode]):
        return
    for rows in sizes:
        for leak in neighbour_leaks(subject, mode, rows):
            yield f"the {leak.stage.label} mixes rows of a batch ({leak.place})"
    for leak in padding_leaks(subject, mode):
        yield f"the {leak.stage.label} hears padding ({leak.place})"


def _padded(model: EncoderTask) -> Iterator[str]:
    """The amount of padding, and audio of the targets that the encoder takes: in float64."""
    double = Subject(model).without_dropout()
    for mode in double.rowwise((IN_USE, TRAINING)):
        for leak in amount_leaks(double, mode):
            yield f"the {leak.stage.label} hears padding ({leak.place})"
    taken = target_audio(double)
    if taken is not None:
        yield f"{taken}, which hears the clean audio of the targets (while training)"


def _sampled(subject: Subject, large: bool) -> Iterator[str]:
    """Loudness and place, of which `verify` measures more."""
    if not subject.promised:
        return
    yield from map(_hears, loudness_leaks(subject, IN_USE, ("clipped", "silent", "soft", "gaps"), ("loud", "click")))
    frames = int(1000 * _FAR_SECONDS / subject.reach.encoder.frame_ms) // subject.reach.chunk * subject.reach.chunk
    ends = [subject.reach.chunk, frames - subject.reach.chunk]
    for mode in (IN_USE,) if large else (IN_USE, TRAINING_BFLOAT16):
        yield from map(_hears, far_leaks(subject, frames + 1, ends, mode))
    if not large:
        yield from map(_hears, length_leaks(subject, range(subject.reach.chunk + 1, 2 * subject.reach.chunk)))


def _drawn(subject: Subject, large: bool) -> Iterator[str]:
    if not subject.promised:
        return
    for leak in drawn_leaks([subject], 0, _DRAWS // 4 if large else _DRAWS, _DRAWN_SECONDS):
        yield f"the {leak.stage.label} hears later audio or other rows ({leak.place})"


def _hears(leak: Leak) -> str:
    where = f"({leak.place}): this encoder would not stream"
    return f"the {leak.stage.label} hears audio later than the preset declares {where}"
