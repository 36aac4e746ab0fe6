"""Figures of what outputs hear and how long samples wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from streamnest.latency import LatencyReport
from streamnest.plotting import HIDDEN, INK, MUTED, RIGHT, plain_axes, to_numpy
from streamnest.streaming.receptive_field import Staircase

_BLUE = "#264653"


def draw_staircase(found: Staircase, title: str) -> Figure:
    """Which input each output hears: a causal model shows a staircase, with nothing to the right of its steps."""
    influence, hop, stride = to_numpy(found.influence), found.hop, found.stride
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    axes = figure.subplots()
    shown = np.log10(np.where(influence > 0, influence / influence.max(), np.nan))
    bottom, top = found.first * stride, (found.first + len(influence)) * stride
    extent = (0.0, influence.shape[1] * hop, bottom, top)
    image = axes.imshow(shown, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-6, vmax=0)
    ends = (np.arange(len(influence)) + found.first + 1) * stride
    axes.step(ends, ends - stride, where="pre", color=RIGHT, lw=1.6, label="end of the output's own block")
    axes.set_xlim(0, influence.shape[1] * hop)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel("input time (s)")
    axes.set_ylabel("output time (s)")
    axes.legend(loc="lower right", fontsize=9)
    figure.colorbar(image, ax=axes, label="influence, powers of ten; white: none at all", shrink=0.8)
    plain_axes(axes)
    return figure


def draw_memory(found: Staircase, title: str) -> Figure:
    """How much an output depends on audio, by how long ago that was; left of 0 is look-ahead."""
    ages, influence = (to_numpy(x) for x in found.by_age())
    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.semilogy(ages, np.where(influence > 0, influence / influence.max(), np.nan), color=_BLUE, lw=1.8)
    axes.axvspan(0, found.stride, color=HIDDEN, alpha=0.35, lw=0, label="the output's own block")
    axes.axvline(0, color=RIGHT, lw=1.6, label="its end")
    axes.set_xlim(ages[-1], min(-0.1, ages[np.flatnonzero(influence)[0]] - 0.05))
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel("age of the audio at the end of the block (s); below 0: look-ahead")
    axes.set_ylabel("influence, relative")
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    axes.grid(alpha=0.25)
    plain_axes(axes)
    return figure


def draw_waits(delays: Sequence[float], frame_ms: float, title: str, chunks: int = 2) -> Figure:
    """How long each sample waits for the frame that stands for it, over the chunks that begin a stream.

    Args:
        delays: milliseconds from the first sample of a block to its frame, for each frame of a chunk; finite.
        frame_ms: of an encoder frame.
        title: of the figure.
        chunks: shown.
    """
    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    span = len(delays) * frame_ms
    for number, delay in enumerate(list(delays) * chunks):
        x = np.array([number, number + 1]) * frame_ms
        axes.plot(x, [delay, delay - frame_ms], color=_BLUE, lw=2.2, solid_capstyle="butt")
    for chunk in range(0, chunks, 2):
        axes.axvspan(chunk * span, (chunk + 1) * span, color=MUTED, alpha=0.12, lw=0)
    mean, worst = float(np.mean(delays)) - frame_ms / 2, max(delays)
    axes.axhline(mean, color=RIGHT, lw=1.4, ls="--", label=f"mean {mean:.1f} ms")
    axes.axhline(worst, color="#e76f51", lw=1.4, ls="--", label=f"worst {worst:.1f} ms")
    axes.set_xlim(0, chunks * span)
    axes.set_ylim(0, 1.3 * worst)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel("when the sample arrives (ms); shaded: every other chunk")
    axes.set_ylabel("wait for its frame (ms)")
    axes.legend(loc="upper right", ncols=2, fontsize=9, frameon=False)
    plain_axes(axes)
    return figure


def draw_latencies(reports: Mapping[str, LatencyReport], own: str | None = None) -> Figure:
    """Mean and worst latency of models that stream, the quickest on top; `own` is marked, the others are muted."""
    names = sorted((n for n, r in reports.items() if r.streams), key=lambda n: -reports[n].latency_mean_ms)
    figure = Figure(figsize=(9, 0.5 * len(names) + 1.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        mean, worst = reports[name].latency_mean_ms, reports[name].latency_worst_ms
        colour = RIGHT if name == own else _BLUE
        axes.plot([mean, worst], [row, row], color=colour, lw=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([mean], [row], "o", color=colour, ms=8, label="mean" if not row else None)
        axes.plot([worst], [row], "|", color=colour, ms=13, mew=2.5, label="worst" if not row else None)
        axes.annotate(
            f"{mean:.4g} / {worst:.4g}", (worst, row), (9, 0), textcoords="offset points", va="center", fontsize=9
        )
    _latency_scale(axes, [ms for n in names for ms in (reports[n].latency_mean_ms, reports[n].latency_worst_ms)])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("algorithmic latency (ms)")
    axes.grid(axis="x", alpha=0.25)
    plain_axes(axes)
    axes.tick_params(axis="y", labelsize=10, labelcolor=INK)
    axes.legend(loc="upper right", fontsize=9, frameon=False)
    return figure


def _latency_scale(axes: Axes, latencies: Sequence[float]) -> None:
    low, high = min(latencies) / 1.3, max(latencies) * 2.2
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if low < t < high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
