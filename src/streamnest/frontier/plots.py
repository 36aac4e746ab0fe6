"""Plots of a frontier: error rate against latency, and against the amount of labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.results import Point
from streamnest.frontier.tables.cells import amount
from streamnest.plotting import INK, OKABE_ITO, heading, plain_axes
from streamnest.reporting.latency_axis import LatencyAxis

# Distinct without red-green vision; in gray, markers and lines tell them apart.
COLORS = {True: OKABE_ITO[0], False: OKABE_ITO[1]}
MARKERS = {True: "o", False: "s"}
NAMES = {True: "pretrained", False: "from scratch"}
_LIMITED_MARKERS = {True: "^", False: "v"}
_COLUMNS, _LEAST_WIDTH = 3, 6.4


@dataclass(frozen=True)
class Series:
    """Points that a line connects.

    Attributes:
        points: points by increasing latency.
        pretrained: initialization of their systems.
        dynamic: True if the points are contexts of one checkpoint.
        limited: True if the left context is limited, which the latency does not show.
    """

    points: list[Point]
    pretrained: bool
    dynamic: bool
    limited: bool = False


def plot_frontier(points: Sequence[Point], title: str, note: str = "") -> Figure:
    """Plots the character error rate with intervals against mean latency, a line for each initialization.

    Args:
        points: points of one label budget.
        title: title of the figure.
        note: subtitle.
    """
    figure = Figure(figsize=(10.4, 6.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    axis = LatencyAxis(p.latency() for p in points)
    for series in _series(points):
        _plot_series(axes, series, axis)
    axis.scale(axes)
    _name_latencies(axes, points, axis)
    axes.set_ylabel("character error rate (%)")
    axes.grid(axis="y", alpha=0.25)
    axes.margins(y=0.08)
    plain_axes(axes)
    figure.legend(
        handles=_legend(points), frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=3
    )
    heading(figure, title, note)
    return figure


def plot_labels(points: Sequence[Point], title: str, note: str = "") -> Figure:
    """Plots the character error rate against hours of labels, a panel per preset; contexts only without presets."""
    points = [p for p in points if not p.context] or points
    names = list(dict.fromkeys(p.name for p in points))
    rows = math.ceil(len(names) / _COLUMNS)
    columns = min(_COLUMNS, len(names))
    # One panel alone would be narrower than the title.
    size = (max(3.4 * columns + 0.4, _LEAST_WIDTH), 2.7 * rows + 0.9)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, (axes, name) in enumerate(zip(grid, names, strict=False)):
        here = sorted((p for p in points if p.name == name), key=lambda p: p.train_hours)
        for pretrained in (False, True):
            values = [(p.train_hours, s.cer) for p in here for flag, s in p.systems if flag is pretrained]
            _errorbars(axes, values, Series(here, pretrained, dynamic=False))
        _label_scale(axes, sorted({p.train_hours for p in points}))
        axes.tick_params(labelbottom=number + columns >= len(names))
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        axes.grid(axis="y", alpha=0.25)
        plain_axes(axes)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    handles = _legend([p for p in points if not p.context] or points)[:2]
    grid[0].legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK)
    figure.supylabel("character error rate (%)", fontsize=10, color=INK)
    figure.supxlabel("transcribed speech", fontsize=10, color=INK)
    heading(figure, title, note)
    return figure


def _series(points: Sequence[Point]) -> list[Series]:
    known = sorted(points, key=lambda p: p.latency())
    every = [
        Series([p for p in known if _belongs(p, *kind)], *kind) for kind in itertools.product((False, True), repeat=3)
    ]
    return [series for series in every if series.points]


def _belongs(point: Point, pretrained: bool, dynamic: bool, limited: bool) -> bool:
    known = any(flag is pretrained for flag, _ in point.systems)
    return known and bool(point.context) is dynamic and _limited(point) is limited


def _limited(point: Point) -> bool:
    """Returns whether the left context is limited, unlike that of other points with the same latency."""
    return math.isfinite(point.latency("left_ms"))


def _plot_series(axes: Axes, series: Series, axis: LatencyAxis) -> None:
    systems = [(p.latency(), s.cer) for p in series.points for flag, s in p.systems if flag is series.pretrained]
    values = [(axis.place(latency), cer) for latency, cer in systems]
    finite = sum(math.isfinite(latency) for latency, _ in systems)
    _errorbars(axes, values[:finite], series)
    _errorbars(axes, values[finite:], series)
    if 0 < finite < len(values):
        (x, y), (to_x, to_y) = ((at, e.value) for at, e in values[finite - 1 : finite + 1])
        color = COLORS[series.pretrained]
        axes.plot([x, to_x], [100 * y, 100 * to_y], color=color, lw=1.1, ls=(0, (1, 2)), alpha=0.8, zorder=2)


def _errorbars(axes: Axes, values: Sequence[tuple[float, Estimate]], series: Series) -> None:
    if not values:
        return
    x = [at for at, _ in values]
    value, low, high = ([100 * getattr(e, name) for _, e in values] for name in ("value", "low", "high"))
    spread = [[v - a for v, a in zip(value, low)], [b - v for v, b in zip(value, high)]]
    color = COLORS[series.pretrained]
    bars: dict[str, Any] = {"ecolor": (color, 0.4), "capsize": 0} if series.dynamic else {"capsize": 2.5}
    axes.errorbar(x, value, spread, elinewidth=1.1, zorder=2.5 if series.dynamic else 3, **_style(series), **bars)


def _style(series: Series) -> dict[str, Any]:
    markers = _LIMITED_MARKERS if series.limited else MARKERS
    line = "" if series.limited else "--" if series.dynamic else "-" if series.pretrained else "-."
    return {
        "color": COLORS[series.pretrained],
        "marker": markers[series.pretrained],
        "mfc": "white" if series.dynamic else COLORS[series.pretrained],
        "ms": 6.5,
        "lw": 1.2 if series.dynamic else 1.8,
        "ls": line,
    }


def _name_latencies(axes: Axes, points: Sequence[Point], axis: LatencyAxis) -> None:
    """Writes the presets, and contexts of dynamic checkpoints, of each latency above the plot."""
    names: dict[float, list[str]] = {}
    for point in sorted(points, key=lambda p: bool(p.context)):
        names.setdefault(point.latency(), []).append(_name(point, points))
    axis.name(axes, names)


def _name(point: Point, points: Sequence[Point]) -> str:
    """Returns the preset, or the context of a dynamic checkpoint, which is marked unless it is named like a preset."""
    known = any(point.context in (None, other.preset) for other in points)
    return (point.context or point.preset) if known else f"{point.context} ({point.preset})"


def _legend(points: Sequence[Point]) -> list[Line2D]:
    known = [flag for flag in (False, True) if any(flag is own for p in points for own, _ in p.systems)]
    kinds = [Series([], flag, False) for flag in known]
    labels = [NAMES[flag] for flag in known]
    if any(p.context for p in points):
        kinds += [Series([], flag, True) for flag in known]
        labels += [f"{NAMES[flag]}, dynamic: one checkpoint" for flag in known]
    if any(_limited(p) and not p.context for p in points):
        kinds += [Series([], flag, False, True) for flag in known]
        labels += [f"{NAMES[flag]}, limited left context" for flag in known]
    return [Line2D([], [], label=label, **_style(kind)) for kind, label in zip(kinds, labels, strict=True)]


def _label_scale(axes: Axes, hours: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(hours, [amount(h) for h in hours])
    axes.margins(x=0.1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
