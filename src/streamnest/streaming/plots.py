"""Plots of receptive fields, of latencies, and of differences between streamed and offline output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from streamnest.latency import LatencyReport
from streamnest.plotting import INK, MUTED, ORANGE, TEAL, heading, plain_axes, to_numpy
from streamnest.streaming.receptive_field import Staircase

_BLUE, _RED = "#264653", "#d1495b"


def plot_staircase(receptive_field: Staircase, title: str) -> Figure:
    """Plots the influence of input time on output time, which runs downward as in a mask of attention.

    Nothing is to the right of the steps of a causal model.
    """
    influence, hop, stride = to_numpy(receptive_field.influence), receptive_field.hop, receptive_field.stride
    figure, axes = _figure(title, height=6)
    shown = np.log10(np.where(influence > 0, influence / influence.max(), np.nan))
    start, end = receptive_field.first * stride, (receptive_field.first + len(influence)) * stride
    extent = (0.0, influence.shape[1] * hop, end, start)
    image = axes.imshow(shown, origin="upper", aspect="auto", extent=extent, cmap="magma", vmin=-6, vmax=0)
    span_ends = (np.arange(len(influence)) + receptive_field.first + 1) * stride
    rows = np.stack([span_ends - stride, span_ends], axis=1)
    (steps,) = axes.plot(np.repeat(span_ends, 2), rows.ravel(), color=INK, lw=1.6, ls="--")
    steps.set_label("end of the target span")
    steps.set_path_effects([withStroke(linewidth=3.5, foreground="white")])
    axes.set_xlim(0, influence.shape[1] * hop)
    axes.set_ylim(end, start)
    axes.set_xlabel("input time (s)")
    axes.set_ylabel("output time (s)")
    axes.legend(loc="upper right", fontsize=9)
    figure.colorbar(image, ax=axes, label="gradient magnitude relative to the maximum, log10 (white: zero)", shrink=0.9)
    return figure


def plot_influence_by_age(receptive_field: Staircase, title: str) -> Figure:
    """Plots the influence of audio on an output frame over the age of the audio; negative ages are look-ahead."""
    ages, influence = (to_numpy(x) for x in receptive_field.by_age())
    figure, axes = _figure(title)
    axes.semilogy(ages, np.where(influence > 0, influence / influence.max(), np.nan), color=_BLUE, lw=1.8)
    axes.axvspan(0, receptive_field.stride, color=ORANGE, alpha=0.35, lw=0, label="target span of the output frame")
    axes.axvline(0, color=INK, lw=1.6, ls="--", label="end of the target span")
    axes.set_xlim(ages[-1], min(-0.1, ages[np.flatnonzero(influence)[0]] - 0.05))
    axes.set_xlabel("age of the audio at the end of the target span (s); negative: look-ahead")
    axes.set_ylabel("gradient magnitude relative to the maximum")
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    axes.grid(alpha=0.25)
    return figure


def plot_waits(delays: Sequence[float], frame_ms: float, title: str, chunks: int = 2) -> Figure:
    """Plots the algorithmic latency of each sample over its arrival time, for the first chunks of a stream.

    Args:
        delays: milliseconds from the first sample of a target span to the emission of its frame, for each frame of a
            chunk; finite.
        frame_ms: stride of the encoder.
        title: title of the figure.
        chunks: number of chunks to plot.
    """
    figure, axes = _figure(title)
    span = len(delays) * frame_ms
    for number, delay in enumerate(list(delays) * chunks):
        x = np.array([number, number + 1]) * frame_ms
        axes.plot(x, [delay, delay - frame_ms], color=_BLUE, lw=2.2, solid_capstyle="butt")
    for chunk in range(0, chunks, 2):
        axes.axvspan(chunk * span, (chunk + 1) * span, color=MUTED, alpha=0.12, lw=0)
    mean, worst = float(np.mean(delays)) - frame_ms / 2, max(delays)
    axes.axhline(mean, color=TEAL, lw=1.6, ls="--", label=f"mean {mean:.1f} ms")
    axes.axhline(worst, color=_RED, lw=1.6, ls=":", label=f"worst {worst:.1f} ms")
    axes.set_xlim(0, chunks * span)
    axes.set_ylim(0, 1.3 * worst)
    axes.set_xlabel("arrival time of the sample (ms); every other chunk is shaded")
    axes.set_ylabel("algorithmic latency (ms)")
    axes.legend(loc="upper right", ncols=2, fontsize=9, frameon=False)
    return figure


def plot_latencies(reports: Mapping[str, LatencyReport], own: str | None = None) -> Figure:
    """Plots mean and worst latency of streaming models, the lowest on top; the name `own` is emphasized."""
    names = sorted((n for n, r in reports.items() if r.streams), key=lambda n: -reports[n].latency_mean_ms)
    figure, axes = _figure("Mean and worst algorithmic latency", height=0.5 * len(names) + 1.6)
    for row, name in enumerate(names):
        mean, worst = reports[name].latency_mean_ms, reports[name].latency_worst_ms
        color = TEAL if name == own else _BLUE
        axes.plot([mean, worst], [row, row], color=color, lw=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([mean], [row], "o", color=color, ms=8, label="mean" if not row else None)
        axes.plot([worst], [row], "|", color=color, ms=13, mew=2.5, label="worst" if not row else None)
        text = axes.annotate(f"{mean:.5g} / {worst:.5g}", (worst, row), (9, 0), textcoords="offset points", fontsize=9)
        text.set(va="center", weight="bold" if name == own else "normal")
    _latency_scale(axes, [ms for n in names for ms in (reports[n].latency_mean_ms, reports[n].latency_worst_ms)])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("algorithmic latency (ms)")
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", labelsize=10)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == own else "normal")
    axes.legend(loc="upper right", fontsize=9, frameon=False)
    return figure


def plot_difference(per_frame: Sequence[float], stride: float, tolerance: float) -> Figure:
    """Plots the largest difference between streamed and offline output in each frame, with the tolerance.

    Args:
        per_frame: differences; values below 1e-12 are plotted as 1e-12.
        stride: seconds between frames.
        tolerance: largest difference allowed.
    """
    figure, axes = _figure("Difference between streamed and offline output", height=3.2)
    shown = np.maximum(np.array(per_frame, np.float64), 1e-12)
    axes.semilogy(np.arange(len(shown)) * stride, shown, color=_BLUE, lw=1.2, label="largest difference in a frame")
    axes.axhline(tolerance, color=_RED, lw=1.4, ls="--", label=f"tolerance {tolerance:.0e}")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("absolute difference")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=9, frameon=False, borderaxespad=0.2)
    return figure


def _figure(title: str, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    heading(figure, title)
    plain_axes(axes)
    return figure, axes


def _latency_scale(axes: Axes, latencies: Sequence[float]) -> None:
    low, high = min(latencies) / 1.3, max(latencies) * 2.2
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if low < t < high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
