"""Plots of learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from streamnest.curves.curve import LearningCurve, describe, is_plotted_as
from streamnest.curves.metrics import axis_label, figure, is_share
from streamnest.plotting import INK, MUTED, OKABE_ITO, heading, plain_axes

_MARKERS, _LINES = "osD^vPX*", ("-", "--", "-.", ":")
_HOURS = "audio consumed in training (h)"
# Runs that are named in a legend, panels in a row, and the height of a text in a plot, in points.
_MOST_NAMED, _COLUMNS, _TEXT = 16, 3, 12.0
# Largest ratio of the ends of a logarithmic axis that is labeled between its decades.
_FEW_DECADES = 12.0


def plot_curves(
    curves: Sequence[LearningCurve],
    title: str | None = None,
    note: str = "",
    log_hours: bool = False,
    log_values: bool = False,
    styles: Sequence[dict[str, Any]] | None = None,
) -> Figure:
    """Plots one metric of several runs, with the last value of each and its 95 % interval.

    Args:
        curves: one or more curves of the same metric.
        title: title of the figure; None names the metric.
        note: subtitle.
        log_hours: use a logarithmic axis of hours, which leaves out validations before training, unless there are no
            others.
        log_values: use a logarithmic axis of values, unless one of them is not positive.
        styles: color, marker and line style of each curve; None takes those of `style` in order.
    """
    looks = list(styles or map(style, range(len(curves))))
    if log_hours := log_hours and any(curve.hours[-1] > 0 for curve in curves):
        trained = [(curve, look) for curve, look in zip(curves, looks, strict=True) if curve.hours[-1] > 0]
        curves, looks = [curve for curve, _ in trained], [look for _, look in trained]
    log_values = log_values and all(value > 0 for curve in curves for value in curve.values)
    size = (9.2, 4.8 + 0.22 * min(len(curves), _MOST_NAMED))
    made = Figure(figsize=size, dpi=130, layout="constrained")
    axes = made.subplots()
    _plot_panel(axes, curves, looks, log_hours, log_values)
    axes.set_xlabel(_HOURS)
    axes.set_ylabel(axis_label(curves[0].metric))
    if len(curves) <= _MOST_NAMED:
        texts = [f"{curve.label}: {describe(curve)}" for curve in curves]
        options: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}
        made.legend(axes.get_lines()[: len(curves)], texts, loc="outside lower left", **options)
    name = is_plotted_as(curves[0].metric)
    heading(made, title or f"{name[0].upper()}{name[1:]} against audio consumed", note)
    _annotate(axes, curves, looks)
    return made


def plot_curve_grid(
    panels: Mapping[str, Sequence[tuple[LearningCurve, dict[str, Any]]]], title: str, note: str = ""
) -> Figure:
    """Plots a panel for each group of runs, on the same axes.

    Args:
        panels: curves with their styles, by title of the panel; a label that several panels share has one style.
        title: title of the figure.
        note: subtitle.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    # One panel alone would be narrower than the note.
    size = (max(3.9 * columns + 0.6, 7.6), 3.1 * rows + 1.3)
    made = Figure(figsize=size, dpi=130, layout="constrained")
    grid = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for number, (axes, (name, content)) in enumerate(zip(grid, panels.items(), strict=False)):
        _plot_panel(axes, [curve for curve, _ in content], [kind for _, kind in content])
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        lowest = number + columns >= len(panels)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel(_HOURS if lowest else "")
        lines = zip(content, axes.get_lines(), strict=False)
        handles = {curve.label.partition(", seed ")[0]: line for (curve, _), line in lines} | handles
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    metric = next(curve.metric for content in panels.values() for curve, _ in content)
    made.supylabel(axis_label(metric), fontsize=10, color=INK)
    options: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9, "labelcolor": INK}
    made.legend(handles.values(), handles.keys(), ncols=min(4, len(handles)), **options)
    heading(made, title, note)
    for axes, content in zip(grid, panels.values(), strict=False):
        _annotate(axes, [curve for curve, _ in content], [kind for _, kind in content])
    return made


def plot_run(curves: Sequence[LearningCurve], title: str) -> Figure:
    """Plots one or more metrics of one run, a panel each, with the trend at its end.

    Args:
        curves: curves of the run, one for each metric.
        title: title of the figure.
    """
    made = Figure(figsize=(6.4 if len(curves) == 1 else 5.0 * len(curves), 4.0), dpi=120, layout="constrained")
    panels = made.subplots(1, len(curves), squeeze=False)[0]
    for number, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        _plot_panel(axes, [curve], [style(number)])
        if curve.baseline is not None:
            axes.axhline(curve.baseline, color=MUTED, lw=1.2, ls="--", zorder=1, label="unigram baseline")
            axes.legend(handles=axes.get_lines()[-1:], frameon=False, fontsize=9, labelcolor=INK)
        axes.set_xlabel(_HOURS)
        axes.set_ylabel(axis_label(curve.metric))
        axes.set_title(describe(curve), fontsize=8.5, color=INK, loc="left")
    heading(made, title)
    for number, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        _annotate(axes, [curve], [style(number)])
    return made


def style(number: int) -> dict[str, Any]:
    """Returns color, marker and line style of a run."""
    color, marker = OKABE_ITO[number % len(OKABE_ITO)], _MARKERS[number % len(_MARKERS)]
    return {"color": color, "marker": marker, "ls": _LINES[number % len(_LINES)]}


def _plot_panel(
    axes: Axes,
    curves: Sequence[LearningCurve],
    styles: Sequence[dict[str, Any]],
    log_hours: bool = False,
    log_values: bool = False,
) -> None:
    scale = 100 if is_share(curves[0].metric) else 1
    for curve, kind in zip(curves, styles, strict=True):
        points = [(h, scale * v) for h, v in zip(curve.hours, curve.values) if h > 0 or not log_hours]
        every = max(1, len(points) // 12)
        axes.plot(*zip(*points, strict=True), label=curve.label, ms=4.5, lw=1.6, markevery=every, **kind)
    for curve, kind in zip(curves, styles, strict=True):
        if curve.interval:
            ends = [scale * value for value in curve.interval]
            last = scale * curve.values[-1]
            spread = [[max(0.0, last - ends[0])], [max(0.0, ends[1] - last)]]
            axes.errorbar(curve.hours[-1], last, spread, color=kind["color"], capsize=3, lw=1.4)
    axes.grid(alpha=0.25, color=MUTED)
    axes.margins(x=0.02, y=0.08)
    axes.ticklabel_format(axis="y", useOffset=False)
    if log_hours:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis, axes.get_xlim())
    if log_values:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis, axes.get_ylim())
    plain_axes(axes)


def _plain_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    """Labels a logarithmic axis with plain numbers, between the decades as well if it spans few of them."""
    form = FuncFormatter(lambda value, _: f"{value:g}")
    axis.set_major_formatter(form)
    axis.set_minor_formatter(form if limits[1] < _FEW_DECADES * limits[0] else NullFormatter())
    axis.set_tick_params(which="minor", color=MUTED, labelcolor=INK, labelsize=9)


def _annotate(axes: Axes, curves: Sequence[LearningCurve], styles: Sequence[dict[str, Any]]) -> None:
    """Writes the last values beside the ends of the curves, moved apart if they would overlap.

    Everything else has to be in the figure, because the positions depend on its layout.
    """
    figure_of_axes, scale = axes.get_figure(), 100 if is_share(curves[0].metric) else 1
    assert isinstance(figure_of_axes, Figure)
    figure_of_axes.draw_without_rendering()
    at = axes.transData.transform([(curve.hours[-1], scale * curve.values[-1]) for curve in curves])
    points = at[:, 1] * 72 / figure_of_axes.dpi
    moved = spread(points, _TEXT)
    for curve, kind, height, target in zip(curves, styles, points, moved, strict=True):
        axes.annotate(
            figure(curve.metric, curve.values[-1]),
            (curve.hours[-1], scale * curve.values[-1]),
            (7, float(target - height)),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=kind["color"],
            annotation_clip=False,
        )


def spread(heights: Any, least: float) -> Any:
    """Moves heights apart to a distance of at least `least`, keeping their order and mean."""
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights, float)[order]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + least)
    result = np.empty_like(moved)
    result[order] = moved - (moved - np.array(heights, float)[order]).mean()
    return result
