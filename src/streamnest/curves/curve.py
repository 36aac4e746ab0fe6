"""A learning curve and its trend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamnest.curves.metrics import axis_label, figure, is_distance, rises

# Validations that a trend needs, and the smallest relative change that is not called flat.
_FEWEST, _FLAT = 3, 0.01


@dataclass(frozen=True)
class LearningCurve:
    """A metric at each validation of a run.

    Attributes:
        label: name of the run.
        metric: name of the metric, such as `val/cer`.
        hours: hours of audio that training had consumed, rising.
        values: values of the metric.
        interval: 95 % interval of the last value; None if unknown.
        baseline: value of the unigram baseline at the last validation; None if there is none.
    """

    label: str
    metric: str
    hours: tuple[float, ...]
    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    baseline: float | None = None

    @property
    def final(self) -> str:
        """Last value as text, with its interval."""
        text = figure(self.metric, self.values[-1])
        if self.interval is None:
            return text
        low, high = (figure(self.metric, value) for value in self.interval)
        return f"{text} ({low.rstrip('%')} to {high})"


@dataclass(frozen=True)
class Trend:
    """Change of a metric at the end of a run.

    Attributes:
        change: change over the window of a line fitted to it.
        relative: the same relative to the start of the line.
        hours: length of the window in hours of audio.
        clear: False if the change is within 1 % (0.01 nats for a distance) or twice its standard error.
    """

    change: float
    relative: float
    hours: float
    clear: bool


def trend(curve: LearningCurve) -> Trend | None:
    """Fits a line to the last third of the hours of audio, or to the last three validations if it has fewer.

    Returns:
        The trend; None with fewer than three validations after the first, which is that of an untrained model.
    """
    hours, values = np.array(curve.hours), np.array(curve.values)
    known = np.isfinite(values) & (hours > 0)
    hours, values = hours[known], values[known]
    if len(hours) < _FEWEST or hours[-1] <= hours[-_FEWEST]:
        return None
    first = min(int(np.searchsorted(hours, 2 / 3 * hours[-1])), len(hours) - _FEWEST)
    x, y = hours[first:] - hours[first], values[first:]
    slope, start = np.polyfit(x, y, 1)
    change, scale = slope * x[-1], abs(start) or 1.0
    error = float(np.sqrt(np.square(y - start - slope * x).sum() / (len(x) - 2) / np.square(x - x.mean()).sum()))
    clear = abs(change) > _FLAT * (1.0 if is_distance(curve.metric) else scale) and abs(slope) > 2 * error
    return Trend(float(change), float(change / scale), float(x[-1]), bool(clear))


def describe(curve: LearningCurve) -> str:
    """Describes the end of a curve: last value, hours, and whether it still improves."""
    text = f"{curve.final} after {amount(curve.hours[-1])}"
    found = trend(curve)
    if found is None:
        return f"{text}; too few validations for a trend"
    falling = found.change < 0
    verdict = ("still falling" if falling else "rising") if found.clear else "no clear trend"
    if rises(curve.metric) and found.clear:
        verdict = "falling" if falling else "still rising"
    distance = is_distance(curve.metric)
    change = f"{found.change:+.3f} nats" if distance else f"{100 * found.relative:+.1f} % relative"
    return f"{text}; {change} over the last {amount(found.hours)}: {verdict}"


def amount(hours: float) -> str:
    """Formats an amount of audio: 0.25 h, 12.5 h, 120 h."""
    return f"{hours:.{2 if hours < 10 else 1 if hours < 100 else 0}f} h"


def curve_of_records(label: str, metric: str, records: Sequence[Mapping[str, float]]) -> LearningCurve | None:
    """Makes the curve of the validations that a run has recorded; None if none has the metric and its hours.

    Args:
        label: name of the run.
        metric: name of the metric.
        records: metrics of each validation with `hours`; those of earlier versions lack it, except at the start.
    """
    known = [r for r in records if metric in r and ("hours" in r or not r["step"]) and math.isfinite(r[metric])]
    if not known:
        return None
    hours, values = ([float(r.get(name, 0.0)) for r in known] for name in ("hours", metric))
    last, interval = known[-1], interval_names(metric)
    return LearningCurve(
        label,
        metric,
        tuple(hours),
        tuple(values),
        (last[interval[0]], last[interval[1]]) if all(name in last for name in interval) else None,
        last.get("val/unigram") if metric == "val/loss" else None,
    )


def interval_names(metric: str) -> tuple[str, str]:
    """Returns the names of the metrics that hold the ends of the interval of a metric."""
    return f"{metric}_low", f"{metric}_high"


def is_plotted_as(metric: str) -> str:
    """Returns the title of a figure about a metric, without the unit."""
    return axis_label(metric).partition(" (")[0]
