"""Table and plot of the contexts that streams have chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from streamnest.console.terminal import printable
from streamnest.plotting import INK, MUTED, TEAL, heading, plain_axes
from streamnest.streaming.adaptive.contexts import AdaptiveContext
from streamnest.streaming.adaptive.history import History, mean_latency
from streamnest.streaming.adaptive.session import AdaptiveSession


def record_of(history: History) -> dict[str, Any]:
    """Returns the fields of a stream for JSON: average latency, frames of each context, and the context per chunk."""
    chunks = [context.name for context in history.choices]
    return {"latency_mean_ms": history.mean_ms, "frames": history.frames, "chunks": chunks}


def share_table(records: Sequence[dict[str, Any]], contexts: Sequence[AdaptiveContext]) -> Table:
    """Returns a table with the average latency of each file and the share of its frames in each context.

    Args:
        records: `file`, and `adaptive` from `record_of`.
        contexts: contexts to choose from.
    """
    table = Table(title="Adaptive look-ahead, share of frames per context", title_justify="left")
    table.add_column("file", overflow="fold")
    for name in ("latency\nmean ms", *(context.name for context in contexts)):
        table.add_column(name, justify="right", overflow="fold")
    for record in records:
        frames = record["adaptive"]["frames"]
        total = max(1, sum(frames.values()))
        shares = (f"{frames[context.name] / total:.0%}" for context in contexts)
        table.add_row(printable(record["file"]), f"{record['adaptive']['latency_mean_ms']:.1f}", *shares)
    return table


def mean_of(frames: Sequence[dict[str, int]], session: AdaptiveSession) -> float:
    """Returns the average latency in milliseconds over streams with `frames` in each context."""
    total = {c.name: sum(part[c.name] for part in frames) for c in session.contexts}
    return mean_latency({c.name: c.mean_ms for c in session.contexts}, total)


def latency_line(frames: Sequence[dict[str, int]], session: AdaptiveSession) -> str:
    """Returns the average latency over streams with `frames` in each context, and the bound of the worst."""
    settings = session.settings
    mean, worst = mean_of(frames, session), session.worst_ms
    return (
        f"algorithmic latency {mean:.1f} ms mean (budget {settings.budget_ms:g} ms, rule {settings.rule}), "
        f"{worst:.1f} ms worst (that of {session.contexts[-1].name})"
    )


def plot_choices(history: History, contexts: Sequence[AdaptiveContext], frame_ms: float, title: str) -> Figure:
    """Plots the context of each chunk over time, and the running average of the latency."""
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    heading(figure, title)
    plain_axes(axes)
    lengths = np.array([context.frames for context in history.choices])
    latency = np.array([context.mean_ms for context in history.choices])
    edges = np.concatenate([[0], np.cumsum(lengths)]) * frame_ms / 1000
    axes.stairs(latency, edges, color=TEAL, lw=1.5, baseline=None, label="context of the chunk")
    axes.plot(edges[1:], np.cumsum(latency * lengths) / np.cumsum(lengths), color=INK, lw=1.5, label="running average")
    axes.set_yscale("log")
    axes.set_yticks([c.mean_ms for c in contexts], [f"{c.name} ({c.mean_ms:g} ms)" for c in contexts])
    axes.yaxis.minorticks_off()
    axes.set_xlabel("time (s)")
    axes.set_ylabel("algorithmic latency, mean")
    axes.grid(axis="y", color=MUTED, alpha=0.25)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=9, frameon=False)
    return figure
