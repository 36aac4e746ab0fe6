"""Pictures of runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from streamnest.plotting import INK, MUTED, RIGHT, plain_axes
from streamnest.reporting.comparison.runs import Run, settings
from streamnest.reporting.comparison.tables import is_share, title
from streamnest.reporting.latency_axis import LatencyAxis

# Okabe and Ito's colours, which people see who do not tell red from green; then, for more runs, a ramp.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_HEALTH = {"val/perplexity": "perplexity of the codes", "val/codes_used": "codes used", "val/rank": "effective rank"}
_MEAN = "latency_mean_ms"
_COLUMNS, _MOST_PANELS = 3, 9


def draw_latency(runs: Sequence[Run], metric: str) -> Figure | None:
    """A metric against mean algorithmic latency; None where all runs have the same."""
    found = [(run.latency[_MEAN], value, run) for run, value in _values(runs, metric) if _MEAN in run.latency]
    if len({latency for latency, _, _ in found}) < 2:
        return None
    axis = LatencyAxis(latency for latency, _, _ in found)
    figure, axes = _single(title(metric) + " against latency")
    named = set()
    for latency, value, run in sorted(found, key=lambda point: -point[1]):
        place = axis.place(latency)
        axes.plot(place, value, "o", color=RIGHT, ms=7)
        # The highest of a latency is named above it, the others below.
        offset = (0, -16 if place in named else 8)
        axes.annotate(run.preset, (place, value), offset, textcoords="offset points", ha="center", color=INK, size=9)
        named.add(place)
    axis.scale(axes)
    _quality_axis(axes, metric)
    return figure


def draw_curves(runs: Sequence[Run], metric: str) -> Figure | None:
    """A metric over the steps of each run; None where nothing was validated."""
    figure, axes = _single(title(metric) + " while training")
    if not _lines(axes, runs, metric):
        return None
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_xlabel("step")
    _quality_axis(axes, metric)
    return figure


def draw_settings(runs: Sequence[Run], metric: str) -> Figure | None:
    """A metric against each setting in which the runs differ but the preset, a panel a setting.

    None where they differ in no other, or in so many that a picture shows nothing.
    """
    keys, found = [key for key in settings(runs) if key != "encoder"], _values(runs, metric)
    if not found or not 0 < len(keys) <= _MOST_PANELS:
        return None
    rows, columns = math.ceil(len(keys) / _COLUMNS), min(_COLUMNS, len(keys))
    figure = Figure(figsize=(3.6 * columns + 0.8, 2.9 * rows + 0.6), dpi=130, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _setting(axes, key, found)
        _quality_axis(axes, metric)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes in [axes for axes in panels if axes.get_subplotspec().colspan.start]:
        axes.set_ylabel("")
    figure.suptitle(title(metric) + " by setting", x=0.01, ha="left", color=INK, fontsize=12, weight="bold")
    return figure


def draw_health(runs: Sequence[Run]) -> Figure | None:
    """How many codes are in use and how many directions the representation has; None for tasks without codes."""
    names = [name for name in _HEALTH if any(name in run.curves for run in runs)]
    if not names:
        return None
    figure = Figure(figsize=(4.2 * len(names), 3.4), dpi=130, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _lines(axes, runs, name)
        axes.set_title(_HEALTH[name], fontsize=10, color=INK, loc="left")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        plain_axes(axes)
    figure.axes[0].legend(frameon=False, fontsize=7, labelcolor=INK)
    return figure


def _values(runs: Sequence[Run], metric: str) -> list[tuple[Run, float]]:
    found = [(run, run.last(metric)) for run in runs]
    return [(run, value) for run, value in found if value is not None and math.isfinite(value)]


def _single(heading: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, 4.6), dpi=130, layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left", color=INK, fontsize=12, weight="bold")
    return figure, figure.subplots()


def _lines(axes: Axes, runs: Sequence[Run], metric: str) -> int:
    """Draws a line a run; returns how many have the metric."""
    shown = [run for run in runs if metric in run.curves]
    for number, run in enumerate(shown):
        curve = run.curves[metric]
        colour = _COLOURS[number] if len(shown) <= len(_COLOURS) else colormaps["viridis"](number / len(shown))
        axes.plot(curve.steps, curve.values, "-o", color=colour, ms=3, lw=1.6, label=run.name)
    return len(shown)


def _setting(axes: Axes, key: str, found: Sequence[tuple[Run, float]]) -> None:
    texts = [run.overrides.get(key, "default") for run, _ in found]
    values = [value for _, value in found]
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        axes.plot(texts, values, "o", color=RIGHT, alpha=0.8)
        axes.tick_params(axis="x", rotation=30)
    else:
        axes.plot(numbers, values, "o", color=RIGHT, alpha=0.8)
        if min(numbers) > 0 and max(numbers) > 20 * min(numbers):
            axes.set_xscale("log")
    axes.set_xlabel(key, color=INK)


def _quality_axis(axes: Axes, metric: str) -> None:
    axes.set_ylabel(title(metric))
    axes.ticklabel_format(axis="y", useOffset=False)
    if is_share(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", alpha=0.25, color=MUTED)
    axes.margins(y=0.15)
    plain_axes(axes)
