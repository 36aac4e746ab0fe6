"""Plots that compare runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from streamnest.curves import plot_curves
from streamnest.curves.metrics import is_share, title
from streamnest.curves.plots import style
from streamnest.plotting import INK, MUTED, heading, plain_axes
from streamnest.reporting.comparison.learning import CurveAxes, learning_curve
from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.runs import labels, settings
from streamnest.reporting.latency_axis import LatencyAxis

_HEALTH = {"val/perplexity": "Code perplexity", "val/codes_used": "Codes used", "val/rank": "Effective rank"}
_MEAN = "latency_mean_ms"
_COLUMNS, _MOST_PANELS, _MOST_NAMED = 3, 9, 16


def plot_latency(runs: Sequence[Run], metric: str) -> Figure | None:
    """Plots a metric against mean algorithmic latency; None if all runs have the same latency."""
    values = _values(runs, metric)
    known = {number: runs[number].latency[_MEAN] for number in values if _MEAN in runs[number].latency}
    if len(set(known.values())) < 2:
        return None
    axis = LatencyAxis(known.values())
    figure, axes = _single(_name(metric) + " against latency", len(known))
    for number, latency in known.items():
        look = {**style(number), "ls": "", "ms": 7}
        axes.plot(axis.place(latency), values[number], label=labels(runs)[number], **look)
    for row, latency in enumerate(sorted(set(known.values()))):
        here = [number for number in known if known[number] == latency]
        _name_presets(axes, axis.place(latency), [values[n] for n in here], [runs[n].preset for n in here], row % 2 > 0)
    axis.scale(axes)
    _quality_axis(axes, metric)
    axes.margins(y=0.22)
    _legend(figure, len(known))
    return figure


def plot_learning(runs: Sequence[Run], metric: str, axes: CurveAxes) -> Figure | None:
    """Plots a metric over the audio that each run has consumed; over steps if no run has logged its hours of audio.

    Args:
        runs: runs to compare.
        metric: metric to plot.
        axes: scales and labels.

    Returns:
        The figure; None if no run was validated.
    """
    found = [learning_curve(run, metric, name) for run, name in zip(runs, axes.names(runs), strict=True)]
    curves, styles = [curve for curve in found if curve], [style(n) for n, curve in enumerate(found) if curve]
    if not curves:
        return _plot_steps(runs, metric)
    without = [name for name, curve, run in zip(labels(runs), found, runs) if not curve and metric in run.curves]
    note = f"without hours of audio: {', '.join(without)}" if without else ""
    return plot_curves(curves, None, note, axes.log_hours, axes.log_values, styles)


def _plot_steps(runs: Sequence[Run], metric: str) -> Figure | None:
    shown = sum(metric in run.curves for run in runs)
    figure, axes = _single(_name(metric) + " during training", shown)
    if not shown:
        return None
    _plot_lines(axes, runs, metric)
    axes.set_xlabel("training step")
    _quality_axis(axes, metric)
    _legend(figure, shown)
    return figure


def plot_settings(runs: Sequence[Run], metric: str) -> Figure | None:
    """Plots a metric against each setting that differs between runs, a panel per setting; presets have their own plot.

    Returns None if no other setting differs, or too many to show.
    """
    keys, values = [key for key in settings(runs) if key != "encoder"], _values(runs, metric)
    if not values or not 0 < len(keys) <= _MOST_PANELS:
        return None
    rows, columns = math.ceil(len(keys) / _COLUMNS), min(_COLUMNS, len(keys))
    size = (max(3.6 * columns + 0.8, 6.4), 2.9 * rows + 0.6)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _plot_setting(axes, key, runs, values)
        _quality_axis(axes, metric)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in [axes for axes in panels if axes.get_subplotspec().colspan.start]:
        axes.set_ylabel("")
    _heading(figure, _name(metric) + " by setting")
    return figure


def plot_health(runs: Sequence[Run]) -> Figure | None:
    """Plots code usage and effective rank over training; None for tasks without codes."""
    names = [name for name in _HEALTH if any(name in run.curves for run in runs)]
    if not names:
        return None
    figure = Figure(figsize=(4.2 * len(names), 3.4), dpi=130, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _plot_lines(axes, runs, name)
        axes.set_title(_HEALTH[name], fontsize=11, color=INK, loc="left")
        axes.set_xlabel("training step")
        axes.set_ylim(bottom=0)
        plain_axes(axes)
    return figure


def _values(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """Returns the finite latest values of a metric, by index of the run."""
    values = {number: run.last(metric) for number, run in enumerate(runs)}
    return {number: value for number, value in values.items() if value is not None and math.isfinite(value)}


def _single(name: str, runs: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.8, 4.6 + 0.2 * min(runs, _MOST_NAMED)), dpi=130, layout="constrained")
    _heading(figure, name)
    return figure, figure.subplots()


def _name(metric: str) -> str:
    """Returns the title of a metric without its unit, for the title of a figure."""
    return title(metric).partition(" (")[0]


def _heading(figure: Figure, text: str) -> None:
    heading(figure, text[0].upper() + text[1:])


def _legend(figure: Figure, runs: int) -> None:
    """Names the runs below the plot, unless they are too many to tell apart."""
    if runs <= _MOST_NAMED:
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower left", frameon=False, fontsize=9, labelcolor=INK)


def _name_presets(axes: Axes, place: float, values: Sequence[float], presets: Sequence[str], below: bool) -> None:
    """Writes the presets of one latency once, above or below their points."""
    axes.annotate(
        "\n".join(dict.fromkeys(presets)),
        (place, min(values) if below else max(values)),
        (0, -8 if below else 8),
        textcoords="offset points",
        ha="center",
        va="top" if below else "bottom",
        color=INK,
        fontsize=9,
    )


def _plot_lines(axes: Axes, runs: Sequence[Run], metric: str) -> None:
    """Plots a line for each run that has a metric."""
    for number, run in enumerate(runs):
        curve = run.curves.get(metric)
        if curve:
            every = max(1, len(curve.steps) // 10)
            look = {**style(number), "ms": 5, "lw": 1.6, "markevery": every}
            axes.plot(curve.steps, curve.values, label=labels(runs)[number], **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_setting(axes: Axes, key: str, runs: Sequence[Run], values: dict[int, float]) -> None:
    texts = {number: runs[number].setting(key) for number in values}
    try:
        places: dict[int, Any] = {number: float(text) for number, text in texts.items()}
    except ValueError:
        places = dict(texts)
        axes.tick_params(axis="x", rotation=30)
    else:
        if min(places.values()) > 0 and max(places.values()) > 20 * min(places.values()):
            axes.set_xscale("log")
    for number, value in values.items():
        axes.plot(places[number], value, **{**style(number), "ls": "", "ms": 7})
    axes.margins(x=0.2)
    axes.set_xlabel(key, color=INK)


def _quality_axis(axes: Axes, metric: str) -> None:
    axes.set_ylabel(title(metric))
    if is_share(metric):
        # Panels may share this axis, so nothing here may depend on the formatter that it has.
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", alpha=0.25, color=MUTED)
    axes.margins(y=0.15)
    plain_axes(axes)
