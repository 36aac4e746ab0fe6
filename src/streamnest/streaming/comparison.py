"""Comparison of streamed frames with the offline output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.streaming.long_forward import forward_in_windows, is_long
from streamnest.streaming.session import StreamingSession
from streamnest.streaming.session_base import Session
from streamnest.streaming.simulation import simulate_streaming_inference

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """Differences between streamed and offline frames.

    Attributes:
        max_difference: largest difference of any channel of any frame; infinite if the numbers of frames differ.
        mean_difference: mean over frames of the largest difference in each frame.
        first_differing_frame: first frame whose difference exceeds the tolerance; None if there is none.
        per_frame: `(frames,)` largest difference in each frame.
        tolerance: largest difference allowed.
        cap_frames: first frame that may differ because its unlimited past is cut to a window; None if all must agree.
        max_left_ms: limit of an unlimited left context in both modes, for recordings over `FULL_FORWARD_S`; None if the
            offline forward is exact.
    """

    max_difference: float
    mean_difference: float
    first_differing_frame: int | None
    per_frame: list[float]
    tolerance: float
    cap_frames: int | None = None
    max_left_ms: float | None = None

    @classmethod
    def of(cls, difference: Tensor, tolerance: float) -> Comparison:
        """Summarizes the largest difference in each frame, `(frames,)`."""
        exceeding = (~(difference <= tolerance)).nonzero()
        return cls(
            max_difference=float(difference.max()) if len(difference) else 0.0,
            mean_difference=float(difference.mean()) if len(difference) else 0.0,
            first_differing_frame=int(exceeding[0]) if len(exceeding) else None,
            per_frame=difference.tolist(),
            tolerance=tolerance,
        )

    @classmethod
    def of_lengths(cls, offline: int, streamed: int, tolerance: float) -> Comparison:
        """Compares outputs of different numbers of frames."""
        return cls(math.inf, math.inf, min(offline, streamed), [], tolerance)

    @property
    def equal(self) -> bool:
        """True if all frames that must agree are within the tolerance, and all differences are finite."""
        first, cap = self.first_differing_frame, self.cap_frames
        return math.isfinite(self.max_difference) and (first is None or (cap is not None and first >= cap))


def frame_differences(offline: Tensor, streamed: Tensor) -> Tensor:
    """Returns the largest difference of any channel in each of the frames `(T', d)`, `(T',)`."""
    return (offline - streamed).abs().amax(-1) if len(offline) else offline.new_zeros(0)


def compare_streaming_vs_offline(
    model: EncoderTask,
    audio: Tensor,
    chunk_size: float | None = None,
    tolerance: float = TOLERANCE,
    session: Session[Any] | None = None,
    streamed: Tensor | None = None,
) -> Comparison:
    """Streams an utterance and compares each frame with the offline forward of the whole utterance.

    Recordings over `FULL_FORWARD_S` are encoded offline in overlapping windows (`forward_in_windows`), by the same
    forward. If the left context is unlimited, the offline forward then has that of the session, which all frames are
    compared with.

    Args:
        model: model in evaluation mode that computes the offline frames, and the streamed ones if `session` is None.
        audio: `(N,)` at the model's rate.
        chunk_size: seconds of audio in each piece, see `simulate_streaming_inference`.
        tolerance: largest difference allowed.
        session: session to compare, for example of an exported model.
        streamed: frames `(T', d)` that the session has emitted for this audio; None to stream it now.
    """
    session = session or StreamingSession(model)
    if streamed is None:
        streamed, _ = simulate_streaming_inference(session, audio, chunk_size)
    cap = session.cap_frames
    left = None if cap is None or not is_long(model, audio) else cap + model.encoder.warmup
    differences, at = list[Tensor](), 0
    for (offline,) in forward_in_windows(model, audio.to(streamed.device), left=left):
        part = streamed[at : at + len(offline)]
        at += len(offline)
        if len(part) == len(offline):
            differences.append(frame_differences(offline, part))
    if at != len(streamed):
        return Comparison.of_lengths(at, len(streamed), tolerance)
    return replace(
        Comparison.of(torch.cat(differences), tolerance),
        cap_frames=cap if left is None else None,
        max_left_ms=None if left is None else left * session.frame_ms,
    )
