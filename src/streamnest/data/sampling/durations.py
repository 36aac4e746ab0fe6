"""Numbers of a corpus that are read a stretch at a time, so that nobody has to hold them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Cuts that are read at once: 8 MB.
_STRETCH = 2**20


class Lengths(Protocol):
    """Seconds of each cut: an array, or something that makes arrays of its stretches."""

    def __len__(self) -> int:
        """Number of cuts."""

    def __getitem__(self, stretch: slice) -> Any:
        """Seconds of the cuts from one to another, `(stop - start,)`."""


class Stretches:
    """Lengths that a function reads.

    Args:
        count: of all.
        read: those from one number to another.
    """

    def __init__(self, count: int, read: Callable[[int, int], Floats]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, stretch: slice) -> Floats:
        start, stop, _ = stretch.indices(self._count)
        return self._read(start, max(start, stop))


def total(lengths: Lengths, start: int = 0, stop: int | None = None) -> float:
    """Seconds of the cuts from one to another."""
    stop = len(lengths) if stop is None else stop
    return sum(float(np.sum(lengths[at : min(at + _STRETCH, stop)])) for at in range(start, stop, _STRETCH))
