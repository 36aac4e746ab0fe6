"""Figures of downstream results."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from streamnest.downstream.layerwise import LayerFigures
from streamnest.drawing import INK, plain_axes

_LINES = (
    ("phones", "accuracy", "phone probe", "#264653"),
    ("speakers", "accuracy", "speaker probe", "#e76f51"),
    ("phone_information", "accuracy", "clusters on phones", "#2a9d8f"),
    ("rank", "effective rank", "", "#264653"),
    ("silhouette", "silhouette of clusters", "", "#264653"),
)


def draw_layers(figures: Sequence[LayerFigures], title: str = "what each layer says") -> Figure:
    """Probes, rank and clusters over the depth of the encoder; the input is the leftmost point."""
    layers = [f for f in figures if f.rank is not None]
    names = list(dict.fromkeys(axis for _, axis, _, _ in _LINES))
    figure = Figure(figsize=(10, 3.2), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for field, axis, label, colour in _LINES:
            points = [(n, getattr(f, field)) for n, f in enumerate(layers) if getattr(f, field) is not None]
            if axis == name and points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1.4, color=colour, label=label or None)
        axes.set_xticks(range(len(layers)), [f.layer for f in layers], rotation=45, fontsize=8)
        axes.set_title(name, fontsize=10, color=INK, loc="left")
        axes.grid(alpha=0.25)
        plain_axes(axes)
    figure.axes[0].set_ylim(0, 1)
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure
