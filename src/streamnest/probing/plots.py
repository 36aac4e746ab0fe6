"""Figures of what the layers of an encoder know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from streamnest.plotting import INK, MUTED, plain_axes, to_numpy
from streamnest.probing.layerwise import LayerFigures

_LINES = (
    ("phones", "accuracy", "phone probe", "#264653"),
    ("speakers", "accuracy", "speaker probe", "#e76f51"),
    ("phone_information", "accuracy", "clusters on phones", "#2a9d8f"),
    ("cer", "character errors (less is better)", "", "#264653"),
    ("rank", "effective rank", "", "#264653"),
    ("silhouette", "silhouette of clusters", "", "#264653"),
)
_PANELS = (
    ("phones", "phone of a frame", "accuracy of a linear probe"),
    ("cer", "characters", "error rate, less is better"),
    ("speakers", "speaker of an utterance", "accuracy of a linear probe"),
    ("phone_information", "phones in clusters", "share of the phones' entropy"),
    ("rank", "effective rank", "directions in use"),
)
# The first model is what is looked at, the others are what it is held against.
_STYLES = ({"color": "#264653", "lw": 2.2, "ls": "-"}, {"color": "#e76f51", "lw": 1.6, "ls": "--"})

# The direction that a norm takes away is 0 but for rounding.
_NOTHING = 1e-6


def draw_layers(figures: Sequence[LayerFigures], title: str = "what each layer says") -> Figure:
    """Probes, rank and clusters over the depth of the encoder; the input is the leftmost point."""
    layers = [f for f in figures if f.rank is not None]
    known = [line for line in _LINES if any(getattr(f, line[0]) is not None for f in layers)]
    names = list(dict.fromkeys(axis for _, axis, _, _ in known))
    figure = Figure(figsize=(1 + 3 * len(names), 3.2), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).ravel(), names, strict=True):
        for field, axis, label, colour in known:
            points = [(n, getattr(f, field)) for n, f in enumerate(layers) if getattr(f, field) is not None]
            if axis == name:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1.4, color=colour, label=label or None)
        _layer_ticks(axes, [f.layer for f in layers])
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.grid(alpha=0.25)
        plain_axes(axes)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def draw_probes(models: Mapping[str, Sequence[LayerFigures]], title: str) -> Figure:
    """Probes and rank of one or two encoders over their depth, a panel for each figure that is known.

    Args:
        models: figures by name; the first is what is looked at, the second what it is held against.
        title: of the figure.
    """
    lines = {name: [f for f in found if f.rank is not None] for name, found in models.items()}
    panels = [p for p in _PANELS if any(getattr(f, p[0]) is not None for found in lines.values() for f in found)]
    figure = Figure(figsize=(1.2 + 2.9 * len(panels), 3.9), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axes, (field, name, unit) in zip(grid, panels, strict=True):
        for (model, found), style in zip(lines.items(), _STYLES, strict=False):
            axes.plot([getattr(f, field) for f in found], marker="o", ms=4.5, label=model, **style)
        axes.set_ylim(0, 1.08 * max(getattr(f, field) for found in lines.values() for f in found))
        _layer_ticks(axes, [f.layer for f in next(iter(lines.values()))])
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        axes.set_ylabel(unit)
        axes.set_xlabel("layer")
        axes.grid(alpha=0.25)
        plain_axes(axes)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    return figure


def draw_spectra(models: Mapping[str, Mapping[str, Tensor]], title: str) -> Figure:
    """Singular values of each layer, a panel for each model; a line that falls steeply uses few directions.

    Args:
        models: by name, and of each by layer, shares `(d,)` as `health.spectrum` gives them.
        title: of the figure.
    """
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False).ravel()
    for axes, (model, layers) in zip(panels, models.items(), strict=True):
        colours = colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
        for (layer, shares), colour in zip(layers.items(), colours, strict=True):
            found = to_numpy(shares[shares > _NOTHING])
            axes.loglog(np.arange(1, len(found) + 1), found, color=colour, lw=1.8, label=layer)
        axes.set_title(model, fontsize=11, color=INK, loc="left")
        axes.set_xlabel("number of the direction, the strongest first")
        axes.set_ylim(top=1)
        axes.grid(alpha=0.25)
        plain_axes(axes)
    panels[0].set_ylabel("singular value, share of all")
    panels[-1].legend(title="layer", loc="lower left", fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    return figure


def draw_similarity(similarities: Mapping[str, Tensor], names: Sequence[str], title: str) -> Figure:
    """How alike layers are, see `probing.similarity`, a panel for each model."""
    figure = Figure(figsize=(5.2 * len(similarities), 4.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(similarities), squeeze=False).ravel()
    for axes, (model, values) in zip(panels, similarities.items(), strict=True):
        image = axes.imshow(to_numpy(values), cmap="viridis", vmin=0, vmax=1)
        if len(names) <= 10:
            for (row, column), value in np.ndenumerate(to_numpy(values)):
                colour = "white" if value < 0.6 else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
        _layer_ticks(axes, names)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(model, fontsize=11, color=INK, loc="left")
        plain_axes(axes)
    figure.colorbar(image, ax=panels, label="linear CKA", shrink=0.8)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left", weight="bold")
    return figure


def _layer_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=45, fontsize=8, color=MUTED)
