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
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray

from streamnest.console.terminal import caption

INK, MUTED, HIDDEN, RIGHT, WRONG = "#1f2933", "#7b8794", "#f4a261", "#2a9d8f", "#c9d1d9"
# Hatched gray, so that masked frames stand out without color as well.
_MASK_STYLE: dict[str, Any] = {"facecolor": "#e5e7eb", "edgecolor": "#4b5563", "hatch": "////", "alpha": 0.82, "lw": 0}
_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16)
_GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class Prediction:
    """Input, targets and predictions of one utterance, first codebook only.

    Attributes:
        title: title of the figure.
        heard: `(D, T)` normalized log-mel of the (noisy) input before masking.
        mask: `(T,)` masked feature frames.
        selected: `(T',)` target frames that are shown: those of the first term of the loss.
        codes: `(T',)` targets.
        predicted: `(T',)` most likely codes.
        nats: `(T',)` cross entropy of each frame.
        baseline: unigram cross entropy in nats of the same term of the loss; None is unknown.
        hop: seconds between feature frames.
        stride: seconds between encoder frames.
        band_khz: `(D,)` center frequencies of the mel bands in kHz; None leaves the axis in bands.
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
    band_khz: NDArray[np.float64] | None = None


def draw_prediction(p: Prediction) -> Figure:
    """Log-mel with the masked frames, targets and predictions, and cross entropy of each target frame, over seconds."""
    figure = Figure(figsize=(11, 6.4), dpi=110, layout="constrained")
    mel, strips, cost = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1.5, 1.7])
    figure.suptitle(caption(p.title), fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    image = draw_mel(mel, p.heard, p.mask, p.hop, p.band_khz)
    figure.colorbar(image, ax=mel, label="normalized log energy", pad=0.01).ax.tick_params(labelsize=8)
    if p.mask.any():
        masked = Patch(**_MASK_STYLE, label="masked frames")
        mel.legend(handles=[masked], loc="upper right", fontsize=8, framealpha=0.9)
    _draw_codes(strips, p)
    _draw_cost(cost, p)
    cost.set_xlabel("time (s)")
    cost.set_xlim(0, len(p.mask) * p.hop)
    for axes in (mel, strips, cost):
        plain_axes(axes)
    return figure


def draw_mel(
    axes: Axes,
    mel: NDArray[np.float32],
    mask: NDArray[np.bool_] | None,
    hop: float,
    band_khz: NDArray[np.float64] | None = None,
) -> AxesImage:
    """Draws a log-mel `(D, T)` and shades the masked frames `(T,)`; with `band_khz` `(D,)` the axis is in kHz."""
    low, high = np.percentile(mel, [3, 99.5])
    extent = (0.0, mel.shape[1] * hop, 0.0, float(mel.shape[0]))
    image = axes.imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high)
    for start, end in runs(np.zeros(0, bool) if mask is None else mask):
        axes.axvspan(start * hop, end * hop, **_MASK_STYLE)
    if band_khz is None:
        axes.set_ylabel("mel band")
    else:
        ticks = [khz for khz in _KHZ if band_khz[0] <= khz <= band_khz[-1]]
        axes.set_yticks(np.interp(ticks, band_khz, np.arange(len(band_khz)) + 0.5), [f"{khz:g}" for khz in ticks])
        axes.set_ylabel("frequency (kHz)")
    return image


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


def draw_difference(per_frame: list[float], stride: float, tolerance: float) -> Figure:
    """Largest difference between streamed and offline output in each frame, beside what is allowed."""
    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    shown = np.maximum(np.array(per_frame, np.float64), 1e-12)
    axes.semilogy(np.arange(len(shown)) * stride, shown, color="#264653", lw=1.2)
    axes.axhline(tolerance, color="#d1495b", lw=1.2, ls="--", label=f"allowed: {tolerance:.0e}")
    axes.set_title("streamed against offline", fontsize=11, color=INK, loc="left")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("largest difference")
    axes.legend(loc="upper right", fontsize=8, frameon=False)
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
    centers = (where + 0.5) * p.stride
    for chosen, color, name in ((hit, RIGHT, "correct"), (~hit, WRONG, "wrong")):
        axes.bar(centers[chosen], p.nats[where][chosen], width=0.86 * p.stride, color=color, lw=0, label=name)
    axes.set_ylabel("cross entropy (nats)")
    if len(where):
        _line(axes, float(p.nats[where].mean()), "mean", INK, "-")
    if p.baseline is not None:
        _line(axes, p.baseline, "unigram baseline", "#d1495b", "--")
    axes.set_ylim(0, 1.35 * max([*p.nats[where], p.baseline or 0.0, 1.0]))
    axes.legend(loc="upper right", fontsize=8, ncols=4, frameon=False)


def _line(axes: Axes, height: float, name: str, color: str, line: str) -> None:
    axes.axhline(height, color=color, lw=1.2, ls=line, label=f"{name} {height:.2f}")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
