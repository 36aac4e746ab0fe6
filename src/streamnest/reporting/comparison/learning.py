"""Learning curves of runs, read from their logs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamnest.curves.curve import LearningCurve, describe, interval_names
from streamnest.curves.metrics import title
from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.runs import labels, settings

_HOURS = "train/hours"


@dataclass(frozen=True)
class CurveAxes:
    """Axes and labels of a plot of learning curves.

    Attributes:
        log_hours: True for a logarithmic axis of hours.
        log_values: True for a logarithmic axis of values.
        labels: labels of runs by their folder; others are named after their settings.
    """

    log_hours: bool = False
    log_values: bool = False
    labels: Mapping[Path, str] = field(default_factory=dict)

    def names(self, runs: Sequence[Run]) -> list[str]:
        """Returns the labels of runs."""
        names = describing_labels(runs)
        return [self.labels.get(run.folder, name) for run, name in zip(runs, names, strict=True)]


# Differing settings that are added to the name of a run.
_MOST_SETTINGS = 3


PLAIN = CurveAxes()


def trends(runs: Sequence[Run], metric: str, axes: CurveAxes) -> list[str]:
    """Describes the last value and the trend of each run with a learning curve."""
    found = [learning_curve(run, metric, name) for run, name in zip(runs, axes.names(runs), strict=True)]
    return [f"{curve.label}: {title(metric)} {describe(curve)}" for curve in found if curve]


def learning_curve(run: Run, metric: str, label: str) -> LearningCurve | None:
    """Returns the curve of a run; None if it has not logged the metric or its hours of audio."""
    curve = run.curves.get(metric)
    known = [] if curve is None else [n for n, value in enumerate(curve.values) if math.isfinite(value)]
    hours = _hours(run, [curve.steps[n] for n in known]) if curve else None
    if curve is None or hours is None or not known:
        return None
    last = curve.steps[known[-1]]
    ends = [_at(run, name, last) for name in interval_names(metric)]
    interval = (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    baseline = _at(run, "val/unigram", last) if metric == "val/loss" else None
    return LearningCurve(label, metric, tuple(hours), tuple(curve.values[n] for n in known), interval, baseline)


def describing_labels(runs: Sequence[Run]) -> list[str]:
    """Returns the name of each run with the settings that differ, if they are few."""
    keys, names = settings(runs), labels(runs)
    if not 0 < len(keys) <= _MOST_SETTINGS:
        return names
    texts = [", ".join(f"{key}={run.setting(key)}" for key in keys) for run in runs]
    return [f"{name}, {text}" for name, text in zip(names, texts, strict=True)]


def _hours(run: Run, steps: Sequence[int]) -> list[float] | None:
    """Returns the hours of audio consumed at each step, interpolated between the steps that were logged."""
    logged = run.curves.get(_HOURS)
    seen = run.summary.get("hours_seen")
    known = dict(zip(logged.steps, logged.values, strict=True)) if logged else {}
    if not known and seen and run.summary.get("step"):
        known = {int(run.summary["step"]): float(seen)}
    if not known:
        return None
    # The validation before training and the first step of training are both logged at step 0.
    known[0] = 0.0
    x, y = sorted(known), [known[step] for step in sorted(known)]
    # Metrics after the last logged step of training, and of a run that has just started.
    rate = y[-1] / x[-1] if x[-1] else 0.0
    return [float(np.interp(step, x, y)) + rate * max(0, step - x[-1]) for step in steps]


def _at(run: Run, metric: str, step: int) -> float | None:
    curve = run.curves.get(metric)
    value = dict(zip(curve.steps, curve.values, strict=True)).get(step) if curve else None
    return value if value is not None and math.isfinite(value) else None
