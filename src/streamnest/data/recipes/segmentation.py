"""Energy-based segmentation of long recordings at their quietest points.

A recording is first split into stretches between `shortest` and `longest` seconds, at the quietest point that these
limits allow; the stretches are contiguous and cover the recording. Each is then trimmed to its speech with a margin,
and dropped if it has none. Segments therefore never overlap, contain all speech, and keep the limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamnest.errors import UserError

Levels = NDArray[np.float32]

FRAME = 0.02
"""Seconds per frame of levels."""
_SILENCE_DB = -100.0
_NEVER_SPEECH_DB = -60.0
_ROOM = round(0.2 / FRAME)
_SMOOTHING = round(0.3 / FRAME)


@dataclass(frozen=True)
class SegmentLimits:
    """Shortest and longest segment in seconds; twice the shortest must not exceed the longest.

    Raises:
        UserError: for other values, with which some audio could not be split.
    """

    shortest: float = 2.0
    longest: float = 30.0

    def __post_init__(self) -> None:
        shortest, longest = self.frames
        if not 0 < 2 * shortest <= longest:
            raise UserError(f"min_seconds={self.shortest}, max_seconds={self.longest}: need 0 < min <= max / 2")

    @property
    def frames(self) -> tuple[int, int]:
        """Returns both limits in whole frames, rounded inwards."""
        return math.ceil(self.shortest / FRAME - 1e-6), math.floor(self.longest / FRAME + 1e-6)


def levels(audio: NDArray[np.float32], sampling_rate: int) -> Levels:
    """Computes the level of each whole frame of mono audio `(N,)`: `(T,)` in dB of full scale, at least -100."""
    size = frame_size(sampling_rate)
    frames = audio[: len(audio) // size * size].reshape(-1, size).astype(np.float64)
    power = np.maximum(np.square(frames).mean(1), 10 ** (_SILENCE_DB / 10))
    return (10 * np.log10(power)).astype(np.float32)


def frame_size(sampling_rate: int) -> int:
    """Returns the samples per frame."""
    return max(1, round(FRAME * sampling_rate))


def find_speech(db: Levels) -> NDArray[np.bool_]:
    """Marks the frames that may be speech, `(T,)`, with a margin of 0.2 s on either side.

    A frame is speech if its level is 6 dB above the 10th percentile or within 30 dB of the 99th. Audio of constant
    level has no quiet part and counts as speech, unless it is below -60 dB.
    """
    if not len(db):
        return np.zeros(0, bool)
    quiet, loud = np.percentile(db, [10, 99])
    threshold = max(_NEVER_SPEECH_DB, min(max(quiet + 6, loud - 30), loud - 3))
    return _windows(db > threshold, _ROOM) > 0


def find_segments(db: Levels, limits: SegmentLimits) -> list[tuple[float, float]]:
    """Returns start and end of each segment in seconds, in order; none if the audio is shorter than the shortest."""
    shortest, longest = limits.frames
    speech = find_speech(db)
    segments = []
    for start, end in _stretches(db, shortest, longest):
        voiced = np.flatnonzero(speech[start:end])
        if len(voiced):
            first, last = _trim(int(voiced[0]), int(voiced[-1]) + 1, end - start, shortest)
            segments.append((round((start + first) * FRAME, 6), round((start + last) * FRAME, 6)))
    return segments


def _stretches(db: Levels, shortest: int, longest: int) -> list[tuple[int, int]]:
    """Splits all frames into contiguous stretches within the limits."""
    smooth = _windows(db, _SMOOTHING // 2) / _windows(np.ones_like(db), _SMOOTHING // 2)
    edges = [0]
    while len(db) - edges[-1] > longest:
        # The remainder must be long enough for a segment.
        first, last = edges[-1] + shortest, min(edges[-1] + longest, len(db) - shortest)
        window = smooth[first : last + 1][::-1]
        # The last of equally quiet points gives fewer, longer segments.
        edges.append(last - int(np.argmin(window)))
    return list(zip(edges, [*edges[1:], len(db)])) if len(db) >= shortest else []


def _trim(first: int, last: int, length: int, shortest: int) -> tuple[int, int]:
    """Widens a span to the shortest length, symmetrically if the stretch allows it."""
    first = max(0, first - max(0, shortest - (last - first)) // 2)
    last = min(length, max(last, first + shortest))
    return max(0, min(first, last - shortest)), last


def _windows(values: NDArray[np.float32] | NDArray[np.bool_], radius: int) -> NDArray[np.float64]:
    """Computes the sum over `radius` frames on either side of each frame, `(T,)`."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    return total[np.minimum(at + radius + 1, len(values))] - total[np.maximum(at - radius, 0)]
