"""Plots of differences: effect of pretraining, cost of streaming, and latency with compute time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.plots import COLORS, MARKERS, NAMES
from streamnest.frontier.results import REFERENCE, Point
from streamnest.frontier.tables.cells import amount
from streamnest.frontier.variants import SCRATCH, Variant
from streamnest.plotting import INK, MUTED, ORANGE, heading, plain_axes

_BLUE = "#264653"


def plot_effects(points: Sequence[Point], title: str, note: str = "") -> Figure:
    """Plots changes of the character error rate with intervals: by pretraining, and from the offline reference.

    Args:
        points: points of one label budget.
        title: title of the figure.
        note: subtitle.
    """
    points = _by_latency(points)
    figure = Figure(figsize=(11, 0.36 * len(points) + 2.2), dpi=110, layout="constrained")
    gain, cost = figure.subplots(1, 2, sharey=True)
    for row, point in enumerate(points):
        _plot_change(gain, row, point.change, True)
        for pretrained, system in point.systems:
            _plot_change(cost, row + (0.15 if pretrained else -0.15), system.cer_reference, pretrained)
    names = [point.name for point in points]
    _finish(gain, names, "Change by pretraining (left of 0: fewer errors)")
    _finish(cost, names, f"Change from {REFERENCE} (right of 0: cost of streaming)")
    for flag in (True, False):
        cost.plot([], [], MARKERS[flag], color=COLORS[flag], label=NAMES[flag])
    figure.legend(*cost.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    for axes in (gain, cost):
        axes.set_xlabel("relative change of the character error rate (%)", fontsize=10)
    heading(figure, title, note)
    return figure


def plot_variants(variants: Sequence[Variant], title: str, note: str = "") -> Figure:
    """Plots changes of the character error rate by variants of pretraining, with intervals.

    Args:
        variants: variants of one or several presets and label budgets, which are named if they are several.
        title: title of the figure.
        note: subtitle.
    """
    known = [variant for variant in variants if variant.change][::-1]
    several = len({(v.preset, v.context, v.hours) for v in variants}) > 1
    figure = Figure(figsize=(8.4, 0.36 * len(known) + 1.9), dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, variant in enumerate(known):
        _plot_change(axes, row, variant.change, variant.name != SCRATCH)
    labels = [_label(variant, several) for variant in known]
    _finish(axes, labels, "Compared with the default pretraining (right of 0: more errors)")
    axes.set_xlabel("relative change of the character error rate (%)", fontsize=10, color=INK)
    heading(figure, title, note)
    return figure


def _label(variant: Variant, several: bool) -> str:
    name = "no pretraining" if variant.name == SCRATCH else str(variant.name).replace("_", " ")
    scope = [variant.preset, variant.context, None if variant.hours is None else amount(variant.hours)]
    return ", ".join([name, *(part for part in scope if part and several)])


def plot_delays(points: Sequence[Point], title: str) -> Figure:
    """Plots mean algorithmic latency plus the compute time of a chunk.

    Args:
        points: points of one label budget; those without a measured compute time are left out.
        title: title of the figure.
    """
    timed = [(point, point.compute) for point in _by_latency(points)]
    known = [(point, compute) for point, compute in timed if compute]
    figure = Figure(figsize=(9.6, 0.4 * len(known) + 2.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, (point, compute) in enumerate(known):
        wait, median, slow = point.latency(), compute["p50_ms"], compute["p99_ms"]
        axes.barh(row, wait, 0.6, color=_BLUE, label=None if row else "mean algorithmic latency")
        axes.barh(row, median, 0.6, left=wait, color=ORANGE, label=None if row else "compute time of a chunk, p50")
        axes.plot([wait + median, wait + slow], [row, row], color=INK, lw=1.4, label=None if row else "p99")
        position = (wait + max(median, slow), row)
        axes.annotate(f"{wait + median:.3g} ms", position, (7, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(known)), [point.name for point, _ in known])
    axes.margins(x=0.12)
    axes.set_xlabel("time from the arrival of a sample to its output frame (ms)")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    heading(figure, title)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    plain_axes(axes)
    return figure


def _by_latency(points: Sequence[Point]) -> list[Point]:
    """Sorts points for a plot from bottom to top: contexts of dynamic checkpoints first, the lowest latency last."""
    return sorted(points, key=lambda p: (bool(p.context), p.latency()))[::-1]


def _plot_change(axes: Axes, row: float, change: Estimate | None, pretrained: bool) -> None:
    if change is None:
        return
    value, low, high = (100 * getattr(change, name) for name in ("value", "low", "high"))
    style: dict[str, Any] = {"color": COLORS[pretrained], "ms": 6, "capsize": 3, "elinewidth": 1.6}
    axes.errorbar([value], [row], xerr=[[value - low], [high - value]], fmt=MARKERS[pretrained], **style)


def _finish(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.axvline(0, color=MUTED, lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(axis="x", alpha=0.25)
    plain_axes(axes)
