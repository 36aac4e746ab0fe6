"""Comparison of utterances with equal past and different future, whose frames must agree up to the boundary."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from streamnest.streaming.probes.check import Check
from streamnest.streaming.probes.reach import Reach
from streamnest.streaming.probes.sounds import noise, with_future
from streamnest.streaming.probes.subject import Mode, Subject
from streamnest.streaming.probes.trace import Difference, FrameLimits, Leak, Trace, first_difference

# The utterance ends at the boundary, in a batch of the same length.
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
    """Finds the first stage whose frames before a boundary change with the audio after it, bit for bit.

    Args:
        subject: model to run.
        mode: mode to run it in.
        audio: `(B, N)`.
        boundary: `(B,)` first sample of each row that is changed.
        futures: names of the sounds that replace the audio there, or `ENDED`.
        lengths: `(B,)` samples of each row; None if all are valid.
        before: trace of the unchanged audio, if it was recorded already.
    """
    lengths = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
    before = subject.run(audio, lengths, mode) if before is None else before
    ended = torch.minimum(lengths, boundary + 3 * subject.reach.hop)
    # Masks may depend on lengths.
    for name in (name for name in futures if name != ENDED or not mode.hide):
        after, until = (audio, ended) if name == ENDED else (with_future(audio, boundary, name), lengths)
        limits = known_frames(subject.reach, boundary, until)
        difference = first_difference(before, subject.run(after, until, mode), limits)
        if difference is not None:
            return difference
    return None


def known_frames(reach: Reach, boundary: Tensor, lengths: Tensor) -> FrameLimits:
    """Returns limits that select the frames of each row before a boundary and inside the utterance."""
    return lambda stage: (0, torch.minimum(reach.known(stage, boundary), reach.valid(stage, lengths)))


def middle(reach: Reach) -> tuple[int, int]:
    """Returns a boundary in the middle of a short utterance, at the end of a chunk, and the length of the utterance."""
    frames = reach.chunk * max(2, math.ceil(8 / reach.chunk))
    boundary = reach.boundary(frames)
    return boundary, boundary + max(6, reach.chunk // 2) * reach.span + reach.hop // 2


def short_audio(reach: Reach, rows: int = 1) -> tuple[Tensor, Tensor]:
    """Returns audio `(rows, N)` and a boundary in its middle, equal for all rows, since rows are compared elsewhere."""
    boundary, samples = middle(reach)
    return noise(samples, rows), torch.full((rows,), boundary)


def leak_check(name: str, leaks: Iterable[Leak], declared: str = "no stage depends on later audio") -> Check:
    """Returns a check that names the stage and the place of the first leak; further leaks are not searched."""
    leak = next(iter(leaks), None)
    if leak is None:
        return Check(name, declared, "none", True)
    return Check(name, declared, f"{leak.stage.label} ({leak.place}, frame {leak.frame})", False)
