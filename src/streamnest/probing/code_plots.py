"""Plots of codes against phones and speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from streamnest.plotting import INK, MUTED, code_colors, heading, plain_axes, plot_mel, to_numpy
from streamnest.probing.codes import LabelInformation
from streamnest.probing.phone_labels import Phone

_LABELS = ("phones", "speakers")
# Far apart in lightness, so that they differ in gray as well.
_COLORS = {"phones": "#1d6f66", "speakers": "#f4a261"}
_TICKS, _SMALL, _TITLE = 10, 10, 11


def plot_spoken_codes(
    mel: NDArray[np.float32],
    codes: Mapping[str, Tensor],
    phones: Sequence[Phone],
    hop: float,
    stride: float,
    seconds: float = 3.0,
) -> Figure:
    """Plots the first seconds of an utterance: log-mel with phone boundaries, and one strip for each kind of codes.

    Args:
        mel: `(D, T)` normalized log-mel.
        codes: `(T',)` by name; the same color is the same code.
        phones: start and end in seconds, and the label.
        hop: seconds between feature frames.
        stride: seconds between codes.
        seconds: duration that is plotted.
    """
    figure = Figure(figsize=(12, 4.8 + 0.45 * len(codes)), dpi=110, layout="constrained")
    top, strips = figure.subplots(2, 1, sharex=True, height_ratios=[4, 0.6 + 0.5 * len(codes)])
    plot_mel(top, mel, None, hop)
    for start, end, label in (phone for phone in phones if phone[0] < seconds):
        top.axvline(start, color="white", lw=0.9, alpha=0.9)
        middle = (start + min(end, seconds)) / 2
        top.text(middle, 1.015, label, transform=top.get_xaxis_transform(), ha="center", fontsize=9, color=INK)
    top.set_title("Log-mel features and phones", fontsize=_TITLE, color=INK, loc="left", pad=22)
    rows = np.array([code_colors(to_numpy(c)) for c in codes.values()])
    strips.imshow(
        rows, aspect="auto", extent=(0.0, rows.shape[1] * stride, len(rows) - 0.5, -0.5), interpolation="none"
    )
    strips.hlines(np.arange(len(rows) - 1) + 0.5, 0, rows.shape[1] * stride, color="white", lw=5)
    strips.set_yticks(range(len(codes)), list(codes))
    strips.set_xlabel("time (s)", fontsize=_SMALL)
    strips.set_title("Code of each encoder frame", fontsize=_TITLE, color=INK, loc="left")
    strips.set_xlim(0, min(seconds, rows.shape[1] * stride))
    for axes in (top, strips):
        _finish(axes)
    return figure


def plot_phones_of_codes(
    tables: Mapping[str, Tensor], phones: Sequence[str], most: int = 24, min_frames: int = 5
) -> Figure:
    """Plots the share of each phone in the frames of each code, with a panel for each kind of codes (HuBERT, figure 2).

    Codes are sorted by their most frequent phone, so codes that stand for phones make a bright diagonal.

    Args:
        tables: counts `(phones, codes)` by name, as `label_shares` returns them.
        phones: names of the rows.
        most: number of phones, the most frequent ones.
        min_frames: codes with fewer frames are left out.
    """
    figure = Figure(figsize=(12, 7), dpi=110, layout="constrained")
    heading(figure, "Phones of each code")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False).ravel()
    frequent = torch.stack([counts.sum(1) for counts in tables.values()]).sum(0).argsort(descending=True)[:most]
    shares = [_sorted_by_phone(counts[:, counts.sum(0) >= min_frames], frequent) for counts in tables.values()]
    brightest = max((float(share.max()) for share in shares if share.size), default=1.0)
    images = []
    for axes, name, share in zip(panels, tables, shares, strict=True):
        if share.size:
            images.append(axes.imshow(share, aspect="auto", cmap="magma", vmin=0, vmax=brightest, interpolation="none"))
            axes.set_xlabel("code (sorted by its most frequent phone)", fontsize=_SMALL)
        axes.set_title(name, fontsize=_TITLE, color=INK, loc="left")
        _finish(axes)
        if not share.size:
            _explain(axes, f"No code has {min_frames} frames\nwith a phone label.")
    if images:
        panels[0].set_yticks(range(len(frequent)), [phones[n] for n in frequent.tolist()])
        panels[0].set_ylabel("phone (most frequent on top)", fontsize=_SMALL)
        figure.colorbar(images[0], ax=panels, shrink=0.8).set_label("share of the code's frames", fontsize=_SMALL)
    return figure


def plot_label_information(information: Mapping[str, Mapping[str, LabelInformation]]) -> Figure:
    """Plots the information of each kind of codes about phones and speakers; the hatched part of a bar is chance."""
    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    chance: dict[str, Any] = {"facecolor": "#dfe3e8", "edgecolor": MUTED, "lw": 0.6, "hatch": "////"}
    legend = []
    for side, label in zip((-1, 1), _LABELS, strict=True):
        known = [(n, by[label]) for n, by in enumerate(information.values()) if by[label].frames]
        if known:
            name = f"{known[0][1].labels} {label}"
            legend.append(Patch(facecolor=_COLORS[label], edgecolor=INK, label=name))
        for n, one in known:
            place = n + 0.19 * side
            axes.bar(place, one.share, 0.34, color=_COLORS[label], edgecolor=INK, lw=0.6)
            axes.bar(place, one.chance, 0.34, **chance)
            above = f"{one.share - one.chance:+.2f}"
            axes.text(place, one.share + 0.008, above, ha="center", va="bottom", fontsize=_SMALL, color=INK)
    heading(figure, "Information of codes about phones and speakers")
    if not legend:
        _finish(axes)
        _explain(axes, "The utterances have neither phone labels nor speakers.")
        return figure
    patches = [*legend, Patch(label="chance (labels in random order)", **chance)]
    axes.legend(handles=patches, loc="upper left", ncols=3, fontsize=_SMALL, frameon=False)
    axes.set_xticks(range(len(information)), list(information))
    axes.set_ylim(0, 1.25 * max(one.share for by in information.values() for one in by.values() if one.frames))
    axes.set_ylabel("mutual information / label entropy", fontsize=_SMALL)
    _finish(axes)
    return figure


def plot_code_distances(distances: Tensor, names: Sequence[str], title: str) -> Figure:
    """Plots the distances of `code_distances`; labels with too few frames are left out.

    Args:
        distances: `(labels, labels)`, NaN for labels with too few frames.
        names: names of the labels.
        title: title of the figure.
    """
    known = ~distances.diagonal().isnan()
    figure = Figure(figsize=(9, 7), dpi=110, layout="constrained")
    axes = figure.subplots()
    heading(figure, title)
    _finish(axes)
    if not known.any():
        _explain(axes, "Too few frames of each label for a comparison.\nUse more utterances.")
        return figure
    shown = to_numpy(distances[known][:, known])
    names = [name for name, flag in zip(names, known.tolist(), strict=True) if flag]
    image = axes.imshow(shown, cmap="magma_r")
    _write_values(axes, shown, float(np.mean(image.get_clim())))
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("Jensen-Shannon distance (diagonal: two halves of one label)", fontsize=_SMALL)
    return figure


def _finish(axes: Axes) -> None:
    plain_axes(axes)
    axes.tick_params(labelsize=_TICKS)


def _explain(axes: Axes, reason: str) -> None:
    """Writes why a panel has no data."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=_TITLE, color=INK)


def _sorted_by_phone(counts: Tensor, rows: Tensor) -> NDArray[np.float64]:
    """Returns shares of each code `(rows, codes)`, sorted by the code's largest row, then by the share there."""
    share = (counts / counts.sum(0))[rows]
    peak, best = share.max(0)
    return to_numpy(share)[:, np.lexsort((-to_numpy(peak), to_numpy(best)))]


def _write_values(axes: Axes, values: NDArray[np.float64], dark: float) -> None:
    """Writes each value in its cell, in white on dark cells."""
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > dark else INK
        axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=9, color=color)
