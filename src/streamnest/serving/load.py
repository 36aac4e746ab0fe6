"""Measured load of a server."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable

_WINDOW_S = 3.0
_MOST_STEPS = 64


class Load:
    """Time that a chunk of all open streams takes, divided by the duration of a chunk: real time ends at 1.

    Streams whose chunks are complete at the same time share a step, so a step takes longer as the load grows, and
    less audio than a chunk of each stream still needs most of its time. The load is therefore the time of a step over
    the duration of a chunk, and for steps with more audio than that, as those of uploaded files, the share for a chunk.
    The median over the last seconds disregards single slow steps.

    Args:
        clock: time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._steps: deque[tuple[float, float]] = deque(maxlen=_MOST_STEPS)  # time and load of a step

    def add(self, seconds: float, chunk_s: float, each_s: float) -> None:
        """Adds a step.

        Args:
            seconds: compute time.
            chunk_s: duration of a chunk.
            each_s: audio that was computed, divided by the number of open streams.
        """
        with self._lock:
            self._steps.append((self._clock(), seconds / max(chunk_s, each_s)))

    @property
    def value(self) -> float:
        """The load; 0 without a step in the last seconds."""
        earliest = self._clock() - _WINDOW_S
        with self._lock:
            recent = [load for at, load in self._steps if at >= earliest]
        return statistics.median(recent) if recent else 0.0
