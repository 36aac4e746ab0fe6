"""The frontier as pictures: errors against latency, and against the amount of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter, NullLocator

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.results import Point
from streamnest.frontier.tables import amount
from streamnest.plotting import INK, MUTED, RIGHT, plain_axes
from streamnest.reporting.latency_axis import LatencyAxis

COLOURS = {True: RIGHT, False: "#e76f51"}
NAMES = {True: "pretrained", False: "from scratch"}
# Times the latency: how far contexts of a dynamic checkpoint stand off, and a limited memory, which has the latency of
# another preset; and the two beginnings from each other.
_DYNAMIC, _LIMITED, _APART = 1.045, 1.16, 1.012
_HALO = [withStroke(linewidth=3, foreground="white")]
_COLUMNS, _LEAST_WIDTH = 3, 6.4


@dataclass(frozen=True)
class Series:
    """Points that a line connects.

    Attributes:
        points: by latency.
        pretrained: which of their systems.
        dynamic: whether they are contexts of one checkpoint.
    """

    points: list[Point]
    pretrained: bool
    dynamic: bool


def draw_frontier(points: Sequence[Point], title: str, note: str = "") -> Figure:
    """Character errors against mean latency, with their intervals; a line for each beginning.

    Args:
        points: of one label budget.
        title: of the figure.
        note: below the title.
    """
    figure = Figure(figsize=(9.6, 5.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    places = _Places(points)
    for series in _series(points):
        _draw_series(axes, series, places)
    _name(axes, points, places)
    places.axis.scale(axes)
    axes.set_ylabel("character error rate (%)")
    axes.grid(axis="y", alpha=0.25)
    axes.margins(y=0.12)
    axes.legend(handles=_legend(points), frameon=False, fontsize=9, labelcolor=INK, loc="best")
    _titles(axes, title, note)
    plain_axes(axes)
    return figure


def draw_labels(points: Sequence[Point], title: str, note: str = "") -> Figure:
    """Character errors against hours of labels, a panel for each preset; for contexts where there is nothing else."""
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
            found = [(p.train_hours, s.cer) for p in here for flag, s in p.systems if flag is pretrained]
            _errorbars(axes, found, pretrained, dynamic=False)
        _label_scale(axes, sorted({p.train_hours for p in points}))
        axes.tick_params(labelbottom=number + columns >= len(names))
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.grid(axis="y", alpha=0.25)
        plain_axes(axes)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    grid[0].legend(handles=_legend([p for p in points if not p.context]), frameon=False, fontsize=8, labelcolor=INK)
    figure.supylabel("character error rate (%)", fontsize=10, color=INK)
    figure.supxlabel("transcribed speech", fontsize=10, color=INK)
    figure.suptitle(f"{title}\n{note}" if note else title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


class _Places:
    """Where points stand on the axis of latency: some a little off, so that they do not hide each other."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.axis = LatencyAxis(p.latency() for p in points)

    def of(self, point: Point) -> float:
        """The place of a point."""
        place = self.axis.place(point.latency())
        return place * (_LIMITED if _limited(point) else 1.0) * (_DYNAMIC if point.context else 1.0)


def _series(points: Sequence[Point]) -> list[Series]:
    found = []
    for pretrained in (False, True):
        known = sorted(
            (p for p in points if any(flag is pretrained for flag, _ in p.systems)), key=lambda p: p.latency()
        )
        for dynamic in (False, True):
            line = [p for p in known if bool(p.context) is dynamic and not _limited(p)]
            alone = [p for p in known if bool(p.context) is dynamic and _limited(p)]
            found += [Series(group, pretrained, dynamic) for group in (line, *([p] for p in alone)) if group]
    return found


def _limited(point: Point) -> bool:
    """Whether it remembers less than others of its latency."""
    return math.isfinite(point.latency("left_ms"))


def _draw_series(axes: Axes, series: Series, places: _Places) -> None:
    shift = _APART if series.pretrained else 1 / _APART
    found = [(places.of(p) * shift, s.cer) for p in series.points for flag, s in p.systems if flag is series.pretrained]
    finite = sum(math.isfinite(p.latency()) for p in series.points)
    _errorbars(axes, found[:finite], series.pretrained, series.dynamic)
    _errorbars(axes, found[finite:], series.pretrained, series.dynamic)
    if 0 < finite < len(found):
        (x, y), (to_x, to_y) = ((at, e.value) for at, e in found[finite - 1 : finite + 1])
        colour = COLOURS[series.pretrained]
        axes.plot([x, to_x], [100 * y, 100 * to_y], color=colour, lw=1.1, ls=(0, (1, 2)), alpha=0.8, zorder=2)


def _errorbars(axes: Axes, found: Sequence[tuple[float, Estimate]], pretrained: bool, dynamic: bool) -> None:
    if not found:
        return
    x = [at for at, _ in found]
    value, low, high = ([100 * getattr(e, name) for _, e in found] for name in ("value", "low", "high"))
    spread = [[v - a for v, a in zip(value, low)], [b - v for v, b in zip(value, high)]]
    colour = COLOURS[pretrained]
    face = "white" if dynamic else colour
    style: dict[str, Any] = {
        "ls": "--" if dynamic else "-",
        "lw": 1.2 if dynamic else 1.8,
        "marker": "o",
        "ms": 5.5,
        "mfc": face,
    }
    bars: dict[str, Any] = {"ecolor": (colour, 0.4), "capsize": 0} if dynamic else {"ecolor": colour, "capsize": 2.5}
    axes.errorbar(x, value, spread, color=colour, elinewidth=1.1, zorder=2.5 if dynamic else 3, **style, **bars)


def _name(axes: Axes, points: Sequence[Point], places: _Places) -> None:
    """Writes presets at their points, below and above in turn, so that neighbours have room."""
    presets = sorted((p for p in points if not p.context), key=lambda p: (p.latency(), _limited(p)))
    for number, point in enumerate(presets):
        above = number % 2 == 1
        place = (point.latency(), _limited(point))
        estimates = [s.cer for p in points if (p.latency(), _limited(p)) == place for _, s in p.systems]
        edge = max(e.high for e in estimates) if above else min(e.low for e in estimates)
        axes.annotate(
            point.preset,
            (places.of(point), 100 * edge),
            xytext=(0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=8.5,
            color=INK,
            path_effects=_HALO,
            zorder=4,
        )


def _legend(points: Sequence[Point]) -> list[Line2D]:
    known = {flag for p in points for flag, _ in p.systems}
    style: dict[str, Any] = {"marker": "o", "ms": 5.5, "lw": 1.8}
    lines = [Line2D([], [], color=COLOURS[flag], label=NAMES[flag], **style) for flag in (False, True) if flag in known]
    if any(p.context for p in points):
        dashed = {**style, "lw": 1.2, "ls": "--", "mfc": "white"}
        lines.append(Line2D([], [], color=MUTED, label="dynamic: one checkpoint in all contexts", **dashed))
    return lines


def _label_scale(axes: Axes, hours: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(hours, [amount(h) for h in hours])
    axes.margins(x=0.1)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _titles(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, fontsize=12, color=INK, loc="left", weight="bold", pad=22 if note else 8)
    if note:
        axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=8.5, color=MUTED, va="bottom")
