"""The latency axis of quality plots: mean algorithmic latency in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from streamnest.plotting import INK, MUTED

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

    def name(self, axes: Axes, names: Mapping[float, Sequence[str]]) -> None:
        """Writes names, such as presets, of latencies above the plot, one below the other, repeated ones once."""
        places = [self.place(latency) for latency in names]
        top = axes.secondary_xaxis("top")
        top.set_xticks(places, ["\n".join(dict.fromkeys(here)) for here in names.values()])
        top.xaxis.set_minor_locator(NullLocator())
        top.tick_params(length=0, labelsize=9, labelcolor=INK, labelrotation=30)
        top.spines["top"].set_visible(False)
        for label in top.get_xticklabels():
            label.set(ha="left", va="bottom", rotation_mode="anchor")
        for place in places:
            axes.axvline(place, color=MUTED, lw=0.6, alpha=0.3, zorder=0)
