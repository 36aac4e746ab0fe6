"""Plots of probes and of the geometry of each encoder layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from streamnest.plotting import INK, heading, plain_axes, to_numpy
from streamnest.probing.layerwise import LayerFigures

# Points, at the size that a figure is saved in.
SMALL, TITLE = 10, 11
_COLUMNS = 3
_MOST_TICKS = 10
# Title of a panel, label of its y axis, and its lines: field, name in the legend, color, marker and line style.
_ACCURACY = (
    ("phones", "phone probe", "#264653", "o", "-"),
    ("speakers", "speaker probe", "#e76f51", "s", "--"),
    ("phone_information", "phones in clusters (PNMI)", "#2a9d8f", "^", ":"),
)
_LAYER_PANELS: tuple[tuple[str, str, tuple[tuple[str, str, str, str, str], ...]], ...] = (
    ("Linear probes and clusters", "accuracy or share", _ACCURACY),
    ("Characters", "CER of a linear CTC probe\n(lower is better)", (("cer", "", "#264653", "o", "-"),)),
    ("Effective rank", "effective rank", (("rank", "", "#264653", "o", "-"),)),
    ("k-means clusters", "silhouette", (("silhouette", "", "#264653", "o", "-"),)),
)
_PROBE_PANELS = (
    ("phones", "Phones", "linear probe accuracy"),
    ("cer", "Characters", "CER of a linear CTC probe\n(lower is better)"),
    ("speakers", "Speakers", "linear probe accuracy"),
    ("phone_information", "Phones in k-means clusters", "PNMI"),
    ("rank", "Effective rank", "effective rank"),
)
# The first model is the subject, the second one its baseline.
_STYLES = (
    {"color": "#264653", "lw": 2.4, "ls": "-", "marker": "o"},
    {"color": "#e76f51", "lw": 1.8, "ls": "--", "marker": "s"},
)
_LINE_STYLES = ("-", "--", "-.", ":")

# Normalization removes one direction, whose singular value is 0 except for rounding.
_ZERO = 1e-6


def plot_layers(figures: Sequence[LayerFigures], title: str = "Probes of each encoder layer") -> Figure:
    """Plots probe results, rank and clusters over the depth of the encoder; the leftmost point is its input."""
    layers = [f for f in figures if f.rank is not None]
    panels = [p for p in _LAYER_PANELS if any(_known(layers, field) for field, *_ in p[2])]
    figure, grid = _grid(len(panels), title, columns=2 if len(panels) == 4 else _COLUMNS)
    for axes, (name, unit, lines) in zip(grid, panels, strict=True):
        for field, label, color, marker, style in lines:
            if points := _known(layers, field):
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, ls=style, lw=2, ms=6, label=label)
        _label(axes, name, unit, [f.layer for f in layers])
        if len(lines) > 1:
            axes.set_ylim(0, 1.35)
            axes.set_yticks(np.arange(0, 1.1, 0.25))
            axes.legend(fontsize=SMALL, frameon=False, loc="upper left")
    return figure


def plot_probes(models: Mapping[str, Sequence[LayerFigures]], title: str) -> Figure:
    """Plots probe results and rank of one or two encoders over their depth, with a panel for each known figure.

    Args:
        models: figures by name; the first encoder is the subject, the second one its baseline.
        title: title of the figure.
    """
    lines = {name: [f for f in figures if f.rank is not None] for name, figures in models.items()}
    panels = [p for p in _PROBE_PANELS if any(_known(figures, p[0]) for figures in lines.values())]
    figure, grid = _grid(len(panels), title)
    for axes, (field, name, unit) in zip(grid, panels, strict=True):
        for (model, figures), style in zip(lines.items(), _STYLES, strict=False):
            axes.plot([getattr(f, field) for f in figures], ms=6, label=model, **style)
        axes.set_ylim(0, 1.08 * max(value for figures in lines.values() for _, value in _known(figures, field)))
        _label(axes, name, unit, [f.layer for f in next(iter(lines.values()))])
    handles: Any = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=TITLE, frameon=False)
    return figure


def plot_spectra(models: Mapping[str, Mapping[str, Tensor]], title: str) -> Figure:
    """Plots singular values of each layer, with a panel for each model; a steep line uses few directions.

    Args:
        models: by name of the model and of the layer, shares `(d,)` as `code_usage.spectrum` returns them.
        title: title of the figure.
    """
    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False).ravel()
    for axes, (model, layers) in zip(panels, models.items(), strict=True):
        colors = colormaps["viridis"](np.linspace(0, 0.85, len(layers)))
        for number, ((layer, shares), color) in enumerate(zip(layers.items(), colors, strict=True)):
            used = to_numpy(shares[shares > _ZERO])
            style = _LINE_STYLES[number % len(_LINE_STYLES)]
            axes.loglog(np.arange(1, len(used) + 1), used, color=color, lw=2, ls=style, label=layer)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("rank of the singular value", fontsize=SMALL)
        axes.set_ylim(top=1)
        _finish(axes, model)
    panels[0].set_ylabel("singular value (share of the sum)", fontsize=SMALL)
    panels[-1].legend(title="layer", loc="lower left", fontsize=SMALL, frameon=False)
    heading(figure, title)
    return figure


def plot_similarity(similarities: Mapping[str, Tensor], names: Sequence[str], title: str) -> Figure:
    """Plots the similarity of layers that `similarity` returns, with a panel for each model."""
    figure = Figure(figsize=(6 * len(similarities), 5.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(similarities), squeeze=False).ravel()
    for axes, (model, values) in zip(panels, similarities.items(), strict=True):
        image = axes.imshow(to_numpy(values), cmap="viridis", vmin=0, vmax=1)
        if len(names) <= 10:
            for (row, column), value in np.ndenumerate(to_numpy(values)):
                color = "white" if value < 0.6 else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=color)
        _finish(axes, model, grid=False)
        _layer_ticks(axes, names)
        axes.set_yticks(axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()])
    figure.colorbar(image, ax=panels, shrink=0.8).set_label("linear CKA", fontsize=SMALL)
    heading(figure, title)
    return figure


def _known(figures: Sequence[LayerFigures], field: str) -> list[tuple[int, float]]:
    """Returns the place of each layer that has a figure, and the figure."""
    return [(n, getattr(f, field)) for n, f in enumerate(figures) if getattr(f, field) is not None]


def _grid(panels: int, title: str, columns: int = _COLUMNS) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of equal panels in rows; cells without a panel stay empty."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(1 + 4 * columns, 0.9 + 3.4 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[panels:]:
        axes.remove()
    heading(figure, title)
    return figure, grid[:panels]


def _label(axes: Axes, title: str, unit: str, layers: Sequence[str]) -> None:
    axes.set_ylabel(unit, fontsize=SMALL)
    axes.set_xlabel("layer", fontsize=SMALL)
    _finish(axes, title)
    _layer_ticks(axes, layers)


def _finish(axes: Axes, title: str, grid: bool = True) -> None:
    axes.set_title(title, fontsize=TITLE, color=INK, loc="left")
    if grid:
        axes.grid(alpha=0.25)
    plain_axes(axes)
    axes.tick_params(labelsize=SMALL)


def _layer_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Names the layers below an axis: the input and the subsampling, then as many numbers as fit."""
    step = math.ceil(len(names) / _MOST_TICKS)
    places = [n for n in range(len(names)) if n < 2 or (n - 1) % step == 0]
    axes.set_xticks(places, [names[n] for n in places], rotation=40, ha="right", rotation_mode="anchor")
