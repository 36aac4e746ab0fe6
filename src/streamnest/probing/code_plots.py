"""Figures of codes against phones and speakers."""

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

from streamnest.plotting import INK, MUTED, RIGHT, code_colors, draw_mel, plain_axes, to_numpy
from streamnest.probing.codes import Told
from streamnest.probing.phone_labels import Phone

_LABELS = ("phones", "speakers")
_COLOURS = {"phones": RIGHT, "speakers": "#e76f51"}


def draw_spoken_codes(
    mel: NDArray[np.float32],
    codes: Mapping[str, Tensor],
    phones: Sequence[Phone],
    hop: float,
    stride: float,
    seconds: float = 3.0,
) -> Figure:
    """The beginning of an utterance: its log-mel with the borders of phones, and a strip for each kind of codes.

    Args:
        mel: `(D, T)` normalised log-mel.
        codes: `(T',)` by name; the same colour is the same code.
        phones: beginning and end in seconds, and the label.
        hop: seconds between feature frames.
        stride: seconds between codes.
        seconds: shown.
    """
    figure = Figure(figsize=(11, 4.6 + 0.35 * len(codes)), dpi=110, layout="constrained")
    top, strips = figure.subplots(2, 1, sharex=True, height_ratios=[4, 0.6 + 0.5 * len(codes)])
    draw_mel(top, mel, None, hop)
    for begin, end, label in (phone for phone in phones if phone[0] < seconds):
        top.axvline(begin, color="white", lw=0.9, alpha=0.9)
        middle = (begin + min(end, seconds)) / 2
        top.text(middle, 1.015, label, transform=top.get_xaxis_transform(), ha="center", fontsize=8, color=INK)
    rows = np.array([code_colors(to_numpy(c)) for c in codes.values()])
    strips.imshow(
        rows, aspect="auto", extent=(0.0, rows.shape[1] * stride, len(rows) - 0.5, -0.5), interpolation="none"
    )
    strips.hlines(np.arange(len(rows) - 1) + 0.5, 0, rows.shape[1] * stride, color="white", lw=5)
    strips.set_yticks(range(len(codes)), list(codes))
    strips.set_xlabel("time (s)")
    strips.set_xlim(0, min(seconds, rows.shape[1] * stride))
    for axes in (top, strips):
        plain_axes(axes)
    strips.tick_params(axis="y", labelsize=9, labelcolor=INK)
    return figure


def draw_phones_of_codes(
    tables: Mapping[str, Tensor], phones: Sequence[str], most: int = 24, seldom: int = 5
) -> Figure:
    """Of the frames with a code, which phones they are, a panel for each kind of codes (HuBERT, figure 2).

    Codes are sorted by their most frequent phone. Where codes stand for phones there is a bright diagonal.

    Args:
        tables: counts `(phones, codes)` by name, see `label_shares`.
        phones: names of the rows.
        most: phones shown, the most frequent.
        seldom: codes with fewer frames are left out.
    """
    figure = Figure(figsize=(12, 6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False).ravel()
    frequent = torch.stack([counts.sum(1) for counts in tables.values()]).sum(0).argsort(descending=True)[:most]
    shares = [_sorted_by_phone(counts[:, counts.sum(0) >= seldom], frequent) for counts in tables.values()]
    brightest = max((float(share.max()) for share in shares if share.size), default=1.0)
    for axes, name, share in zip(panels, tables, shares, strict=True):
        image = axes.imshow(share, aspect="auto", cmap="magma", vmin=0, vmax=brightest, interpolation="none")
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        axes.set_xlabel("code, sorted by its most frequent phone")
        plain_axes(axes)
    panels[0].set_yticks(range(len(frequent)), [phones[n] for n in frequent.tolist()])
    panels[0].set_ylabel("phone, the most frequent on top")
    figure.colorbar(image, ax=panels, label="share of the frames with the code", shrink=0.8)
    return figure


def draw_told(found: Mapping[str, Mapping[str, Told]]) -> Figure:
    """What each kind of codes tells of phones and speakers: all of the bar, of which the hatched part is chance."""
    figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    chance: dict[str, Any] = {"facecolor": "#dfe3e8", "edgecolor": MUTED, "lw": 0.6, "hatch": "////"}
    legend = []
    for side, label in zip((-1, 1), _LABELS, strict=True):
        known = [(n, by[label]) for n, by in enumerate(found.values()) if by[label].frames]
        for n, told in known:
            where = n + 0.19 * side
            axes.bar(where, told.share, 0.34, color=_COLOURS[label])
            axes.bar(where, told.chance, 0.34, **chance)
            above = f"{told.share - told.chance:+.2f}"
            axes.text(where, told.share + 0.008, above, ha="center", va="bottom", fontsize=9, color=INK)
        legend += [Patch(color=_COLOURS[label], label=f"{known[0][1].labels} {label}")] if known else []
    axes.legend(
        handles=[*legend, Patch(label="chance", **chance)], loc="upper left", ncols=3, fontsize=9, frameon=False
    )
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylim(0, 1.25 * max((t.share for by in found.values() for t in by.values() if t.frames), default=1.0))
    axes.set_ylabel("share of the labels' entropy")
    plain_axes(axes)
    axes.tick_params(axis="x", labelsize=9, labelcolor=INK)
    return figure


def draw_code_distances(distances: Tensor, names: Sequence[str], title: str) -> Figure:
    """How differently labels use codes, see `code_distances`; those with too few frames are left out."""
    known = ~distances.diagonal().isnan()
    shown = to_numpy(distances[known][:, known])
    names = [name for name, flag in zip(names, known.tolist(), strict=True) if flag]
    figure = Figure(figsize=(8.6, 6.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, cmap="magma_r")
    _write_values(axes, shown, float(np.mean(image.get_clim())) if shown.size else 0.0)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    figure.colorbar(image, ax=axes, label="Jensen-Shannon distance of codes; diagonal: within one", shrink=0.8)
    plain_axes(axes)
    axes.tick_params(labelcolor=INK)
    return figure


def _sorted_by_phone(counts: Tensor, rows: Tensor) -> NDArray[np.float64]:
    """Shares of each code `(rows, codes)`; codes are sorted by their largest row, and within it by how large it is."""
    share = (counts / counts.sum(0))[rows]
    peak, best = share.max(0)
    return to_numpy(share)[:, np.lexsort((-to_numpy(peak), to_numpy(best)))]


def _write_values(axes: Axes, values: NDArray[np.float64], dark: float) -> None:
    """Each value in its cell; on dark cells in white."""
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > dark else INK
        axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=8, color=colour)
