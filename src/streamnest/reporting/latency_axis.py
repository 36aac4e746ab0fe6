"""The latency axis of quality plots: mean algorithmic latency in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from streamnest.plotting import MUTED

# Position of encoders that need the whole utterance, as a multiple of the largest latency.
_WHOLE = 2.6


class LatencyAxis:
    """A logarithmic latency axis on which encoders that need the whole utterance stand on the right, behind a gap.

    Args:
        latencies: latencies in milliseconds, infinite for the whole utterance.
    """

    def __init__(self, latencies: Iterable[float]) -> None:
        known = set(latencies)
        self._finite = sorted(ms for ms in known if math.isfinite(ms)) or [10.0]
        self._whole = _WHOLE * self._finite[-1] if any(math.isinf(ms) for ms in known) else None

    def place(self, latency: float) -> float:
        """Returns the position of a latency on the axis."""
        return latency if math.isfinite(latency) else self._whole or self._finite[-1]

    def scale(self, axes: Axes) -> None:
        """Makes the x axis logarithmic, with a tick at each latency."""
        axes.set_xscale("log")
        ends = [*self._finite, *([self._whole] if self._whole else [])]
        axes.set_xlim(ends[0] / 1.35, ends[-1] * 1.4)
        axes.set_xticks(ends, [*(f"{ms:.5g}" for ms in self._finite), *(["whole\nutterance"] if self._whole else [])])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("mean algorithmic latency (ms)")
        if self._whole:
            axes.axvline(self._whole / _WHOLE**0.5, color=MUTED, lw=0.8, ls=(0, (1, 3)))
