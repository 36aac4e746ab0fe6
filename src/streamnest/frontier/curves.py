"""Learning curves of the fine-tunings of a frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from streamnest.curves import LearningCurve, plot_curve_grid
from streamnest.curves.plots import style
from streamnest.frontier.plan import Stage
from streamnest.frontier.records import Records
from streamnest.reporting.comparison.learning import learning_curve
from streamnest.reporting.comparison.run_files import read_run

_METRIC = "val/cer"


def read_curves(plan: Sequence[Stage], records: Records) -> dict[str, list[LearningCurve]]:
    """Returns the learning curves of fine-tunings by preset, also of those that are still running."""
    stages = [stage for stage in plan if stage.kind == "finetune"]
    several = {name: len({getattr(stage, name) for stage in stages}) > 1 for name in ("hours", "seed")}
    curves: dict[str, list[LearningCurve]] = {}
    for stage in stages:
        folder = records.folder(stage)
        run = read_run(folder) if (folder / ".hydra/config.yaml").is_file() else None
        curve = run and learning_curve(run, _METRIC, _label(stage, several))
        if curve:
            curves.setdefault(stage.preset, []).append(curve)
    return curves


def plot_fine_tunings(curves: Mapping[str, Sequence[LearningCurve]], note: str) -> Figure:
    """Plots the character error rate of fine-tunings over the audio they consumed, a panel per preset."""
    kinds = list(dict.fromkeys(_kind(curve) for found in curves.values() for curve in found))
    styles: dict[str, dict[str, Any]] = {kind: style(number) for number, kind in enumerate(kinds)}
    panels = {preset: [(curve, styles[_kind(curve)]) for curve in found] for preset, found in curves.items()}
    return plot_curve_grid(panels, "Fine-tuning: error rate against audio consumed", note)


def _label(stage: Stage, several: Mapping[str, bool]) -> str:
    pretrained = "pretrained" if stage.variant is None else f"variant {stage.variant}"
    parts = [pretrained if stage.pretrained else "from scratch"]
    parts += ["all labels" if stage.hours is None else f"{stage.hours:g} h of labels"] if several["hours"] else []
    return ", ".join([*parts, *([f"seed {stage.seed}"] if several["seed"] else [])])


def _kind(curve: LearningCurve) -> str:
    """Returns what curves of one style share: everything but the seed."""
    return curve.label.partition(", seed ")[0]
