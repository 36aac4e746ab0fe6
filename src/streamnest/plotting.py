"""Plots of inputs, targets and predictions, made without a display and without global state."""

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
from matplotlib.text import Annotation
from numpy.typing import NDArray

from streamnest.console.terminal import caption

INK, MUTED, ORANGE, TEAL, PALE = "#1f2933", "#7b8794", "#f4a261", "#2a9d8f", "#c9d1d9"
# Colors that remain distinct without red-green vision (Okabe and Ito 2008); in gray, markers and lines tell them apart.
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_GOLDEN_RATIO = 0.618034
# Masked frames: light and hatched, which stands out from any color of the log-mel.
_MASKED: dict[str, Any] = {"facecolor": (1, 1, 1, 0.55), "edgecolor": (0.25, 0.25, 0.25, 0.7), "hatch": "///", "lw": 0}


@dataclass(frozen=True)
class Prediction:
    """Prediction for one utterance, first codebook only.

    Attributes:
        title: title of the plot.
        features: `(D, T)` normalized log-mel of the (noisy) input before masking.
        mask: `(T,)` masked feature frames.
        selected: `(T',)` encoder frames in the loss.
        codes: `(T',)` targets.
        predicted: `(T',)` most likely codes.
        nats: `(T',)` cross entropy of each frame.
        baseline: loss in nats of the unigram baseline; None if unknown.
        hop: seconds between feature frames.
        stride: seconds between encoder frames.
        sample_rate: samples per second, for the frequency axis.
    """

    title: str
    features: NDArray[np.float32]
    mask: NDArray[np.bool_]
    selected: NDArray[np.bool_]
    codes: NDArray[np.int64]
    predicted: NDArray[np.int64]
    nats: NDArray[np.float32]
    baseline: float | None
    hop: float
    stride: float
    sample_rate: int = 16000


def plot_prediction(p: Prediction) -> Figure:
    """Plots log-mel with masked frames, targets with predictions, and the loss of each predicted frame over time."""
    figure = Figure(figsize=(11, 6.4), dpi=110, layout="constrained")
    mel, strips, cost = figure.subplots(3, 1, sharex=True, height_ratios=[3.2, 1.5, 1.7])
    heading(figure, p.title)
    image = plot_mel(mel, p.features, p.mask, p.hop, p.sample_rate)
    figure.colorbar(image, ax=mel, label="normalized log-mel", pad=0.01, aspect=14)
    mel.legend(handles=[Patch(**_MASKED, label="masked")], loc="upper right", fontsize=9, framealpha=0.9)
    _plot_codes(strips, p)
    _plot_cost(cost, p)
    cost.set_xlabel("time (s)")
    cost.set_xlim(0, len(p.mask) * p.hop)
    for axes in (mel, strips, cost):
        plain_axes(axes)
    return figure


def plot_mel(
    axes: Axes, mel: NDArray[np.float32], mask: NDArray[np.bool_] | None, hop: float, sample_rate: int | None = None
) -> AxesImage:
    """Plots log-mel `(D, T)` with masked frames `(T,)` hatched.

    Args:
        axes: axes to plot into.
        mel: log-mel features.
        mask: masked frames; None without a mask.
        hop: seconds between frames.
        sample_rate: samples per second, for an axis in kHz; None shows mel bands.

    Returns:
        The image, for a color bar.
    """
    low, high = np.percentile(mel, [3, 99.5])
    extent = (0.0, mel.shape[1] * hop, 0.0, float(mel.shape[0]))
    image = axes.imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high)
    for start, end in runs(np.zeros(0, bool) if mask is None else mask):
        axes.axvspan(start * hop, end * hop, **_MASKED)
    axes.set_ylabel("mel band" if sample_rate is None else "frequency (kHz)")
    if sample_rate is not None:
        ticks = [hz for hz in (500, 1000, 2000, 4000, 8000, 16000) if 2 * hz <= sample_rate]
        share = np.array([_slaney_mel(hz) for hz in ticks]) / _slaney_mel(sample_rate / 2)
        axes.set_yticks(share * (len(mel) + 1) - 0.5, [f"{hz / 1000:g}" for hz in ticks])
        axes.set_ylim(0, len(mel))
    return image


def plot_code_histogram(counts: dict[str, NDArray[np.float64]]) -> Figure:
    """Plots code frequencies by rank on logarithmic axes, a line for each named count `(classes,)`."""
    figure = Figure(figsize=(7.5, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    styles = zip(OKABE_ITO, "osD^vPX", ("-", "--", "-.", ":", "-", "--", "-."), strict=True)
    for (name, values), (color, marker, line) in zip(counts.items(), styles):
        share = np.sort(values[values > 0])[::-1] / max(1.0, values.sum())
        perplexity = float(np.exp(-(share * np.log(share)).sum()))
        label = f"{name}: {len(share)} of {len(values)} codes, perplexity {perplexity:.0f}"
        axes.loglog(
            np.arange(1, len(share) + 1), share, color=color, ls=line, lw=2, label=label, **_sparse(marker, len(share))
        )
        axes.axhline(1 / len(values), color=MUTED, lw=1, ls=":")
    heading(figure, "Code frequencies", "Dotted: uniform over all codes")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("rank of the code")
    axes.set_ylabel("share of frames")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25, which="major")
    plain_axes(axes)
    return figure


def code_colors(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns a color `(N, 3)` for each code; consecutive codes get distant colors."""
    hues = (codes * _GOLDEN_RATIO) % 1.0
    return np.array([colorsys.hls_to_rgb(h, 0.42 + 0.28 * ((c * 7) % 5) / 4, 0.6) for h, c in zip(hues, codes)])


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns the half-open spans in which a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def heading(figure: Figure, title: str, note: str = "") -> None:
    """Writes the title of a figure on the left in bold, and a note below it in regular weight."""
    lines = caption(note).count("\n") + 1 if note else 0
    text = figure.suptitle(caption(title) + "\n " * lines, fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    if note:
        below: dict[str, Any] = {"xycoords": text, "fontsize": 10.5, "color": INK, "ha": "left", "va": "bottom"}
        figure.add_artist(Annotation(caption(note), (0, 0), **below))


def plain_axes(axes: Axes) -> None:
    """Removes frame lines and mutes the ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(color=MUTED, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure and creates its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the name and version of the library, so that the same figure is the same file in all versions.
    figure.savefig(path, facecolor="white", metadata={"Software": None} if path.suffix == ".png" else None)
    return path


def to_numpy(x: torch.Tensor) -> NDArray[Any]:
    """Converts a tensor of any device and precision to an array."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()


def _plot_codes(axes: Axes, p: Prediction) -> None:
    width = p.stride
    rows = np.ones((3, len(p.codes), 3))
    rows[0], rows[1] = code_colors(p.codes), code_colors(p.predicted)
    rows[1:][:, ~p.selected] = 1.0
    hit = p.selected & (p.codes == p.predicted)
    rows[2, p.selected] = _rgb(PALE)
    rows[2, hit] = _rgb(TEAL)
    axes.imshow(rows, aspect="auto", extent=(0.0, len(p.codes) * width, 2.5, -0.5), interpolation="none")
    axes.set_yticks([0, 1, 2], ["target code", "predicted", "correct"])
    axes.hlines([0.5, 1.5], 0, len(p.codes) * width, color="white", lw=3)


def _plot_cost(axes: Axes, p: Prediction) -> None:
    where = np.flatnonzero(p.selected)
    hit = (p.codes == p.predicted)[where]
    centers = (where + 0.5) * p.stride
    for chosen, color, name in ((hit, TEAL, "correct"), (~hit, PALE, "wrong")):
        axes.bar(centers[chosen], p.nats[where][chosen], width=0.86 * p.stride, color=color, lw=0)
        axes.bar(0, 0, color=color, label=name)  # an empty series would have the wrong color in the legend
    axes.set_ylabel("cross entropy (nats)")
    if len(where):
        _line(axes, float(p.nats[where].mean()), "mean", INK, "-")
    if p.baseline is not None:
        _line(axes, p.baseline, "unigram baseline", OKABE_ITO[1], "--")
    axes.set_ylim(0, 1.35 * max([*p.nats[where], p.baseline or 0.0, 1.0]))
    axes.legend(loc="upper right", fontsize=9, ncols=4, frameon=False)


def _slaney_mel(hz: float) -> float:
    """Returns a frequency on the Slaney mel scale: linear below 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))


def _sparse(marker: str, points: int) -> dict[str, Any]:
    """Returns markers for about ten of the points on a logarithmic axis; a single point is visible as well."""
    places = np.unique(np.geomspace(1, points, 10).astype(int) - 1) if points else np.zeros(0, int)
    return {"marker": marker, "ms": 5, "markevery": [int(place) for place in places]}


def _line(axes: Axes, height: float, name: str, color: str, line: str) -> None:
    axes.axhline(height, color=color, lw=1.2, ls=line, label=f"{name} {height:.2f}")


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
