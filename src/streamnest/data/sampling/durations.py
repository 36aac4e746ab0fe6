"""Lazy durations of the cuts of a corpus, read in slices to bound memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Durations that are read at once (8 MB).
_SLICE = 2**20


class Durations(Protocol):
    """Seconds of each cut: an array, or an object whose slices are arrays."""

    def __len__(self) -> int:
        """Number of cuts."""

    def __getitem__(self, part: slice) -> Any:
        """Returns the seconds of the cuts in a slice, `(stop - start,)`."""


class LazyDurations:
    """Durations that a function reads.

    Args:
        count: number of cuts.
        read: returns the seconds of the cuts from a start to a stop index.
    """

    def __init__(self, count: int, read: Callable[[int, int], Floats]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> Floats:
        start, stop, _ = part.indices(self._count)
        return self._read(start, max(start, stop))


def total(durations: Durations, start: int = 0, stop: int | None = None) -> float:
    """Sums the seconds of the cuts from a start to a stop index."""
    stop = len(durations) if stop is None else stop
    return sum(float(np.sum(durations[at : min(at + _SLICE, stop)])) for at in range(start, stop, _SLICE))
