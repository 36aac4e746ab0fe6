"""The central comparison: utterances with the same past and different futures give the same frames until there."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise, with_future
from streamnest.streaming.probes.subject import Mode, Subject
from streamnest.streaming.probes.trace import Difference, Leak, Limits, Trace, first_difference

# The utterance ends instead, in a batch that stays as long.
ENDED = "ended"
FUTURES = ("shifted", "silent", "loud", ENDED)


def future_leak(
    subject: Subject,
    mode: Mode,
    audio: Tensor,
    boundary: Tensor,
    futures: Iterable[str] = FUTURES,
    lengths: Tensor | None = None,
    before: Trace | None = None,
) -> Difference | None:
    """The first stage whose frames before a boundary change with the audio after it; bits are compared.

    Args:
        subject: runs the model.
        mode: how to run it.
        audio: `(B, N)`.
        boundary: `(B,)` sample from which on each row is changed.
        futures: sounds to put there, or `ENDED`.
        lengths: `(B,)` samples of each row; None is all.
        before: trace of the audio as it is, if there is one already.
    """
    lengths = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
    before = subject.run(audio, lengths, mode) if before is None else before
    ended = torch.minimum(lengths, boundary + 3 * subject.reach.hop)
    # Masks depend on lengths, and may.
    for name in (name for name in futures if name != ENDED or not mode.hide):
        after, until = (audio, ended) if name == ENDED else (with_future(audio, boundary, name), lengths)
        limits = known_frames(subject.reach, boundary, until)
        found = first_difference(before, subject.run(after, until, mode), limits)
        if found is not None:
            return found
    return None


def known_frames(reach: Reach, boundary: Tensor, lengths: Tensor) -> Limits:
    """Limits: the frames of each row that lie before a boundary and inside of the utterance."""
    return lambda stage: (0, torch.minimum(reach.known(stage, boundary), reach.valid(stage, lengths)))


def middle(reach: Reach) -> tuple[int, int]:
    """A boundary in the middle of a short utterance, at the end of a chunk, and the samples of the utterance."""
    frames = reach.chunk * max(2, math.ceil(8 / reach.chunk))
    boundary = reach.boundary(frames)
    return boundary, boundary + max(6, reach.chunk // 2) * reach.block + reach.hop // 2


def short_audio(reach: Reach, rows: int = 1) -> tuple[Tensor, Tensor]:
    """Audio `(rows, N)` and a boundary in its middle, the same for each row: leaks between rows are measured apart."""
    boundary, samples = middle(reach)
    return noise(samples, rows), torch.full((rows,), boundary)


def leak_check(name: str, leaks: Iterable[Leak], declared: str = "none hears past its chunk") -> Check:
    """A line that names the stage of the first leak, and where it is; what comes after is not measured."""
    leak = next(iter(leaks), None)
    if leak is None:
        return Check(name, declared, "none does", True)
    return Check(name, declared, f"the {leak.stage.label} does ({leak.place}, frame {leak.frame})", False)
