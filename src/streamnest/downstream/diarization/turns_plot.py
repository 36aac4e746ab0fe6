"""Plot of speaker activity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamnest.console.terminal import caption
from streamnest.data.conversations.simulation import Turn
from streamnest.plotting import INK, MUTED, heading, plain_axes

# Ordered so that neighbors differ in lightness, and hatched so that bars differ in gray as well.
_COLORS = ("#264653", "#f4a261", "#2a9d8f", "#e9c46a", "#8e6c8a", "#9fc5e8")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
_SMALL = 10
Style = tuple[str, str]


def plot_turns(
    title: str,
    probabilities: NDArray[np.float32],
    hypothesis: Sequence[Turn],
    names: Sequence[str],
    frame_s: float,
    reference: Sequence[Turn] | None = None,
    assignment: dict[str, str] | None = None,
) -> Figure:
    """Plots activity and turns of each speaker column over time, and the reference above; a color is a speaker.

    Args:
        title: title of the figure.
        probabilities: `(T, S)` probabilities of activity.
        hypothesis: turns of the diarizer.
        names: names of the S speaker columns.
        frame_s: duration of a frame in seconds.
        reference: turns of the reference, or None.
        assignment: reference speaker of each speaker column, so that both have one color.
    """
    seconds = len(probabilities) * frame_s
    speakers = sorted({turn.speaker for turn in reference or ()}, key=lambda name: _first(reference or (), name))
    styles = _styles(names, speakers, assignment or {})
    heights = [0.35 * max(1, len(speakers)), 0.62 * len(names)] if reference is not None else [0.62 * len(names)]
    figure = Figure(figsize=(11, 1.3 + sum(heights)), dpi=110, layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    heading(figure, title)
    if reference is not None:
        _plot_bars(panels[0], reference, speakers, styles, height=0.7)
        panels[0].set_ylabel("reference", fontsize=_SMALL, color=INK)
    _plot_activity(panels[-1], probabilities, names, styles, frame_s)
    _plot_bars(panels[-1], hypothesis, names, styles, height=0.2, below=0.44)
    panels[-1].set_ylabel("probability and turns", fontsize=_SMALL, color=INK)
    panels[-1].set_xlabel("time (s)", fontsize=_SMALL)
    panels[-1].set_xlim(0, seconds)
    for axes in panels:
        plain_axes(axes)
        axes.tick_params(labelsize=_SMALL)
    return figure


def _first(turns: Sequence[Turn], name: str) -> float:
    return min(turn.start for turn in turns if turn.speaker == name)


def _styles(names: Sequence[str], speakers: Sequence[str], assignment: dict[str, str]) -> dict[str, Style]:
    """Returns color and hatch of reference speakers and speaker columns; a column without a match is gray."""
    every = [(color, hatch) for color, hatch in zip(_COLORS, _HATCHES, strict=True)]
    styles = {name: every[number % len(every)] for number, name in enumerate(speakers)}
    for number, name in enumerate(names):
        unmatched = (MUTED, "") if speakers else every[number % len(every)]
        styles[name] = styles.get(assignment.get(name, ""), unmatched)
    return styles


def _plot_bars(
    axes: Axes, turns: Sequence[Turn], names: Sequence[str], styles: dict[str, Style], height: float, below: float = 0.0
) -> None:
    for row, name in enumerate(names):
        bars = [(turn.start, turn.end - turn.start) for turn in turns if turn.speaker == name]
        color, hatch = styles[name]
        extent = (row + below - height / 2, height)
        axes.broken_barh(bars, extent, facecolors=color, hatch=hatch, edgecolor="white", lw=0)
    axes.set_yticks(range(len(names)), [caption(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.55)


def _plot_activity(
    axes: Axes, probabilities: NDArray[np.float32], names: Sequence[str], styles: dict[str, Style], frame_s: float
) -> None:
    """Plots probabilities as filled steps on one baseline for each speaker column."""
    edges = np.arange(len(probabilities) + 1) * frame_s
    for row, name in enumerate(names):
        top = row + 0.32 - 0.75 * np.append(probabilities[:, row], probabilities[-1:, row])
        axes.fill_between(edges, row + 0.32, top, step="post", color=styles[name][0], alpha=0.45, lw=0)
        axes.axhline(row + 0.32, color=MUTED, lw=0.6)
