"""Plots of the statistics of manifests."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from streamnest.data.inspection import Floats, Inspection
from streamnest.plotting import INK, ORANGE, TEAL, heading, plain_axes

# Speakers up to which their bars are separated by gaps.
_BARS = 40


def plot_inspection(inspection: Inspection, title: str) -> Figure:
    """Plots hours by duration, levels, minutes of each speaker, and padding of batches."""
    figure = Figure(figsize=(11, 6.4), dpi=110, layout="constrained")
    heading(figure, title)
    (durations, levels), (speakers, padding) = figure.subplots(2, 2)
    unit, scale = ("hours", 3600) if inspection.durations.sum() >= 3600 else ("minutes", 60)
    durations.hist(inspection.durations, bins=40, weights=inspection.durations / scale, color=TEAL)
    _label(durations, "Amount of audio by utterance duration", "duration (s)", unit)
    if len(inspection.levels):
        levels.hist(inspection.levels, bins=30, color=ORANGE)
    levels.yaxis.set_major_locator(MaxNLocator(integer=True))
    _label(
        levels,
        f"Level of decoded utterances (n = {len(inspection.levels)})",
        "RMS level (dBFS)",
        "utterances",
    )
    _plot_speakers(speakers, np.sort([seconds / 60 for seconds in inspection.speakers.values()])[::-1])
    if inspection.fill:
        shares = 100 * inspection.fill.shares
        padding.plot(inspection.fill.longest, shares, ".", color=INK, ms=4, clip_on=False)
        padding.axhline(
            100 * inspection.fill.padding, color=ORANGE, ls="--", label=f"all batches: {inspection.fill.padding:.1%}"
        )
        padding.set_ylim(0, max(1.0, 1.1 * float(shares.max())))
        padding.legend(frameon=False, fontsize=9)
    _label(padding, "Padding of each batch", "longest utterance of the batch (s)", "padding (%)")
    return figure


def _plot_speakers(axes: Axes, minutes: Floats) -> None:
    axes.bar(np.arange(1, len(minutes) + 1), minutes, width=1.0 if len(minutes) > _BARS else 0.8, color=INK)
    axes.set_xlim(0.4, max(1, len(minutes)) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _label(axes, f"Audio of each speaker (n = {len(minutes)})", "rank of the speaker", "minutes")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    plain_axes(axes)
