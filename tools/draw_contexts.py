"""Plots the receptive fields of the context styles, and causal masks: `python tools/draw_contexts.py`."""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from streamnest.encoder.context import Context
from streamnest.masking import RandomBlockMasking
from streamnest.plotting import heading, save

FRAMES, LAYERS = 12, 2
CASES = {
    "Causal": Context(None, 0),
    "Chunked, 2 frames ahead": Context(None, 2),
    "Chunked, limited left context": Context(3, 2),
    "Delayed by 2 frames": Context(None, 2, "delayed"),
    "Regular, 2 frames per layer": Context(None, 2, "regular"),
}
# Values of the color maps: visible, the frame itself or masked, not received yet.
VISIBLE, OWN, LATER = 0.6, 1.0, 0.35


def receptive_field(context: Context) -> np.ndarray:
    """Returns the input frames (columns) that each output frame (rows) depends on after `LAYERS` layers."""
    time = torch.arange(FRAMES + LAYERS * context.delay)
    layer = context.visible(time, time).numpy().astype(int)
    whole = np.linalg.matrix_power(layer, LAYERS) > 0
    # Delayed layers look back only; the output is read after the delay.
    visible = whole[context.delay : context.delay + FRAMES, :FRAMES] * VISIBLE
    np.fill_diagonal(visible, OWN)
    return visible


def plot_context(axes: Axes, title: str, context: Context) -> None:
    """Plots the receptive field of one style of context."""
    axes.imshow(receptive_field(context), cmap=ListedColormap(["white", "#9ecae1", "#08519c"]), vmin=0, vmax=1)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("input frame", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(0, FRAMES, 2))
        axis.set_ticks(np.arange(-0.5, FRAMES), minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelsize=9)


def plot_masks(axes: Axes) -> None:
    """Plots the masks of one utterance at several live edges."""
    masking = RandomBlockMasking(
        1, mask_prob=0.03, block_size=12, allow_overlap=True, causal=True, left_context_size=100
    )
    edges = [60, 120, 180, 240]
    rows = []
    for edge in edges:
        mask = masking.sample(torch.tensor([240]), 240, current_frame=edge, keys=torch.tensor([7]))
        row = mask.reshape(-1)[-240:].float().numpy()
        row[edge:] = np.where(row[edge:] > 0, 1.0, LATER)
        rows.append(np.repeat(row[None], 12, axis=0))
        rows.append(np.zeros((4, 240)))
    axes.imshow(
        np.concatenate(rows[:-1]),
        cmap=ListedColormap(["white", "#dddddd", "#08519c"]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0, 2.4, 60, 0),
    )
    axes.set_title(
        "Causal masks (blue) in the last second before the live edge (gray: audio that has not arrived yet)",
        fontsize=11,
        loc="left",
    )
    axes.set_yticks(
        [6 + 16 * i for i in range(len(edges))], [f"live edge at {edge / 100:g} s" for edge in edges], fontsize=10
    )
    axes.set_xlabel("time (s)", fontsize=10)
    axes.tick_params(labelsize=9)


def draw() -> Figure:
    """Plots the receptive fields above the masks."""
    figure = Figure(figsize=(13, 5), dpi=110, layout="constrained")
    heading(figure, f"Receptive field of each output frame after {LAYERS} layers (dark: the frame itself)")
    grid = figure.add_gridspec(2, len(CASES), height_ratios=[1.9, 1])
    for column, (title, context) in enumerate(CASES.items()):
        axes = figure.add_subplot(grid[0, column])
        plot_context(axes, title, context)
        axes.set_ylabel("" if column else "output frame", fontsize=10)
    plot_masks(figure.add_subplot(grid[1, :]))
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/contexts.png"), help="PNG file to write")
    print(save(draw(), parser.parse_args().out))
