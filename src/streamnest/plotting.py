"""Figures of what the model hears, is asked and answers. Drawn without a display and without global state."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from streamnest.console.terminal import caption

INK, MUTED, HIDDEN, RIGHT, WRONG = "#1f2933", "#7b8794", "#f4a261", "#2a9d8f", "#c9d1d9"
_GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class Prediction:
    """One utterance as the model saw it, first book only.

    Attributes:
        title: of the figure.
        heard: `(D, T)` normalised log-mel of the (noisy) input before masking.
        mask: `(T,)` hidden feature frames.
        selected: `(T',)` encoder frames that the loss counts.
        codes: `(T',)` targets.
        predicted: `(T',)` most likely codes.
        nats: `(T',)` cross entropy of each frame.
        baseline: nats that code frequencies alone reach; None is unknown.
        hop: seconds between feature frames.
        stride: seconds between encoder frames.
    """

    title: str
    heard: NDArray[np.float32]
    mask: NDArray[np.bool_]
    selected: NDArray[np.bool_]
    codes: NDArray[np.int64]
    predicted: NDArray[np.int64]
    nats: NDArray[np.float32]
    baseline: float | None
    hop: float
    stride: float


def draw_prediction(p: Prediction) -> Figure:
    """Mel with the hidden frames, targets beside predictions, and what each hidden frame cost; time in seconds."""
    figure = Figure(figsize=(11, 6.4), dpi=110, layout="constrained")
    mel, strips, cost = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1.5, 1.7])
    figure.suptitle(caption(p.title), fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    draw_mel(mel, p.heard, p.mask, p.hop)
    mel.legend(
        handles=[Patch(color=HIDDEN, alpha=0.6, label="hidden from the encoder")],
        loc="upper right",
        fontsize=8,
        framealpha=0.9,
    )
    _draw_codes(strips, p)
    _draw_cost(cost, p)
    cost.set_xlabel("time (s)")
    cost.set_xlim(0, len(p.mask) * p.hop)
    for axes in (mel, strips, cost):
        plain_axes(axes)
    return figure


def draw_mel(axes: Axes, mel: NDArray[np.float32], mask: NDArray[np.bool_] | None, hop: float) -> None:
    """A log-mel `(D, T)` picture with the masked frames `(T,)` laid over it."""
    low, high = np.percentile(mel, [3, 99.5])
    extent = (0.0, mel.shape[1] * hop, 0.0, float(mel.shape[0]))
    axes.imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high)
    for start, end in runs(np.zeros(0, bool) if mask is None else mask):
        axes.axvspan(start * hop, end * hop, color=HIDDEN, alpha=0.62, lw=0)
    axes.set_ylabel("mel band")


def draw_code_histogram(counts: dict[str, NDArray[np.float64]]) -> Figure:
    """How often each code occurs, most frequent first, for each named count `(classes,)`; both axes logarithmic."""
    figure = Figure(figsize=(7.5, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    styles = (("#264653", "-"), (RIGHT, "-"), (HIDDEN, "-"), ("#e76f51", "--"))
    for (name, values), (colour, line) in zip(counts.items(), styles):
        share = np.sort(values[values > 0])[::-1] / max(1.0, values.sum())
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        label = f"{name}: {len(share)} of {len(values)} codes, perplexity {perplexity:.0f}"
        axes.loglog(np.arange(1, len(share) + 1), share, color=colour, ls=line, lw=2, label=label)
        axes.axhline(1 / len(values), color=MUTED, lw=1, ls=":")
    axes.set_title("Code frequencies; dotted: all codes equally likely", fontsize=11, color=INK, loc="left")
    axes.set_xlabel("rank of the code")
    axes.set_ylabel("share of frames")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25, which="major")
    plain_axes(axes)
    return figure


def code_colours(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """A colour `(N, 3)` for each code: the same code has the same colour, near numbers have distant ones."""
    hues = (codes * _GOLDEN_RATIO) % 1.0
    return np.array([colorsys.hls_to_rgb(h, 0.42 + 0.28 * ((c * 7) % 5) / 4, 0.6) for h, c in zip(hues, codes)])


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open spans in which a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def plain_axes(axes: Axes) -> None:
    """Takes away what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure, making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name and address of the library, so that the same figure is the same file whatever its version.
    figure.savefig(path, facecolor="white", metadata={"Software": None} if path.suffix == ".png" else None)
    return path


def to_numpy(x: torch.Tensor) -> NDArray[Any]:
    """An array of a tensor from any device and precision."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()


def _draw_codes(axes: Axes, p: Prediction) -> None:
    width = p.stride
    rows = np.ones((3, len(p.codes), 3))
    rows[0], rows[1] = code_colours(p.codes), code_colours(p.predicted)
    rows[1:][:, ~p.selected] = 1.0
    hit = p.selected & (p.codes == p.predicted)
    rows[2, p.selected] = _rgb(WRONG)
    rows[2, hit] = _rgb(RIGHT)
    axes.imshow(rows, aspect="auto", extent=(0.0, len(p.codes) * width, 2.5, -0.5), interpolation="none")
    axes.set_yticks([0, 1, 2], ["target code", "predicted", "correct"])
    axes.hlines([0.5, 1.5], 0, len(p.codes) * width, color="white", lw=3)


def _draw_cost(axes: Axes, p: Prediction) -> None:
    where = np.flatnonzero(p.selected)
    hit = (p.codes == p.predicted)[where]
    centres = (where + 0.5) * p.stride
    colours = np.where(hit, RIGHT, "#8d99ae")
    axes.bar(centres, p.nats[where], width=0.86 * p.stride, color=colours, lw=0)
    axes.set_ylabel("nats")
    if len(where):
        _line(axes, float(p.nats[where].mean()), "mean", INK)
    if p.baseline is not None:
        _line(axes, p.baseline, "code frequencies", "#d1495b")
    axes.set_ylim(0, 1.35 * max([*p.nats[where], p.baseline or 0.0, 1.0]))
    axes.legend(loc="upper right", fontsize=8, ncols=2, frameon=False)


def _line(axes: Axes, height: float, name: str, colour: str) -> None:
    axes.axhline(height, color=colour, lw=1.2, ls="--", label=f"{name} {height:.2f}")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
