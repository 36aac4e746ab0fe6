"""A picture of who speaks when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamnest.console.terminal import caption
from streamnest.data.conversations.simulation import Turn
from streamnest.plotting import INK, MUTED, plain_axes

_COLOURS = ("#264653", "#e76f51", "#2a9d8f", "#e9c46a", "#8e6c8a", "#577590")


def plot_turns(
    title: str,
    probabilities: NDArray[np.float32],
    found: Sequence[Turn],
    names: Sequence[str],
    frame_s: float,
    reference: Sequence[Turn] | None = None,
    assignment: dict[str, str] | None = None,
) -> Figure:
    """Activity of each output over time, its turns as bars below, and the reference above; a colour is a speaker.

    Args:
        title: of the figure.
        probabilities: `(T, S)`.
        found: turns.
        names: of the S outputs.
        frame_s: seconds of a frame.
        reference: turns; None for none.
        assignment: which speaker of the reference an output stands for, so that both have one colour.
    """
    seconds = len(probabilities) * frame_s
    spoken = sorted({turn.speaker for turn in reference or ()}, key=lambda name: _first(reference or (), name))
    colours = _colours(names, spoken, assignment or {})
    heights = [0.35 * max(1, len(spoken)), 0.62 * len(names)] if reference is not None else [0.62 * len(names)]
    figure = Figure(figsize=(11, 1.3 + sum(heights)), dpi=110, layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    figure.suptitle(caption(title), fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    if reference is not None:
        _draw_bars(panels[0], reference, spoken, colours, height=0.7)
        panels[0].set_ylabel("reference", color=INK)
    _draw_activity(panels[-1], probabilities, names, colours, frame_s)
    _draw_bars(panels[-1], found, names, colours, height=0.12, below=0.42)
    panels[-1].set_ylabel("found", color=INK)
    panels[-1].set_xlabel("time (s)")
    panels[-1].set_xlim(0, seconds)
    for axes in panels:
        plain_axes(axes)
    return figure


def _first(turns: Sequence[Turn], name: str) -> float:
    return min(turn.start for turn in turns if turn.speaker == name)


def _colours(names: Sequence[str], spoken: Sequence[str], assignment: dict[str, str]) -> dict[str, str]:
    """Of speakers of the reference, of the outputs that stand for them, and of the other outputs."""
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(spoken)}
    for at, name in enumerate(names):
        alone = MUTED if spoken else _COLOURS[at % len(_COLOURS)]
        colours[name] = colours.get(assignment.get(name, ""), alone)
    return colours


def _draw_bars(
    axes: Axes, turns: Sequence[Turn], names: Sequence[str], colours: dict[str, str], height: float, below: float = 0.0
) -> None:
    for row, name in enumerate(names):
        bars = [(turn.start, turn.end - turn.start) for turn in turns if turn.speaker == name]
        axes.broken_barh(bars, (row + below - height / 2, height), facecolors=colours[name], lw=0)
    axes.set_yticks(range(len(names)), [caption(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)


def _draw_activity(
    axes: Axes, probabilities: NDArray[np.float32], names: Sequence[str], colours: dict[str, str], frame_s: float
) -> None:
    """Probabilities as hills on a line for each output."""
    edges = np.arange(len(probabilities) + 1) * frame_s
    for row, name in enumerate(names):
        top = row + 0.32 - 0.75 * np.append(probabilities[:, row], probabilities[-1:, row])
        axes.fill_between(edges, row + 0.32, top, step="post", color=colours[name], alpha=0.45, lw=0)
        axes.axhline(row + 0.32, color=MUTED, lw=0.6)
