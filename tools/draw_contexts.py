"""Draws what each output may hear, by style of context and where masks may lie: `python tools/draw_contexts.py`."""

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
from streamnest.plotting import save

FRAMES = 12
CASES = {
    "causal": Context(None, 0),
    "chunked, 2 frames ahead": Context(None, 2),
    "chunked, limited past": Context(3, 2),
    "delayed by 2 frames": Context(None, 2, "delayed"),
    "regular, 2 frames ahead,\nin one layer": Context(None, 2, "regular"),
}
# Values of the colour maps: heard, the frame's own block, not yet heard.
HEARD, OWN, UNHEARD = 0.6, 1.0, 0.35


def heard(context: Context) -> np.ndarray:
    """What each output `(rows)` hears of each input frame; its own frame is marked."""
    time = torch.arange(FRAMES + context.delay)
    visible = context.visible(time, time)[context.delay :, :FRAMES].float().numpy() * HEARD
    np.fill_diagonal(visible, OWN)
    return visible


def draw_context(axes: Axes, title: str, context: Context) -> None:
    """One panel."""
    axes.imshow(heard(context), cmap=ListedColormap(["white", "#9ecae1", "#08519c"]), vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("input frame", fontsize=8)
    axes.set_xticks(np.arange(-0.5, FRAMES), minor=True)
    axes.set_yticks(np.arange(-0.5, FRAMES), minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelsize=7)


def draw_masks(axes: Axes) -> None:
    """Masks of one utterance, by how far the stream has come."""
    masking = RandomBlockMasking(
        1, mask_prob=0.03, block_size=12, allow_overlap=True, causal=True, left_context_size=100
    )
    edges = [60, 120, 180, 240]
    rows = []
    for edge in edges:
        mask = masking.sample(torch.tensor([240]), 240, current_frame=edge, keys=torch.tensor([7]))
        row = mask.reshape(-1)[-240:].float().numpy()
        row[edge:] = np.where(row[edge:] > 0, 1.0, UNHEARD)
        rows.append(np.repeat(row[None], 12, axis=0))
        rows.append(np.zeros((4, 240)))
    axes.imshow(
        np.concatenate(rows[:-1]),
        cmap=ListedColormap(["white", "#dddddd", "#08519c"]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_title(
        "causal masking, left context 1 s, at four live edges: masks (blue), not yet heard (grey)", fontsize=9
    )
    axes.set_yticks([6 + 16 * i for i in range(len(edges))], [f"current_frame {edge}" for edge in edges], fontsize=7)
    axes.set_xlabel("feature frame (10 ms)", fontsize=8)
    axes.tick_params(labelsize=7)


def draw() -> Figure:
    """Both rows of panels."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, len(CASES), height_ratios=[1.9, 1])
    for column, (title, context) in enumerate(CASES.items()):
        axes = figure.add_subplot(grid[0, column])
        draw_context(axes, title, context)
        axes.set_ylabel("" if column else "output frame", fontsize=8)
    draw_masks(figure.add_subplot(grid[1, :]))
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/contexts.png"))
    print(save(draw(), parser.parse_args().out))
