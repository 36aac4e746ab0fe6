"""What a comparison shows of each run, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamnest.formatting import count, milliseconds
from streamnest.reporting.comparison.runs import Run, settings

# Metrics that runs of a task are compared by beside the one they monitor, and what they are called.
_MORE = {
    "val/gain": "gain, nats",
    "val/accuracy": "accuracy",
    "val/wer": "WER",
    "val/perplexity": "code perplexity",
    "val/codes_used": "codes used",
    "val/rank": "rank",
}
_SHARES = ("accuracy", "cer", "wer", "der", "eer")
# More have no columns of their own.
_MOST_SETTINGS = 4
_COUNTS = ("perplexity", "codes_used", "rank")
# Of these more is better; everything else is a loss, an error or a matter of taste.
_RISING = ("gain", "accuracy", "rank", "perplexity", "codes_used")


@dataclass(frozen=True)
class Table:
    """A table of runs.

    Attributes:
        header: names of the columns.
        rows: a text for each column; empty where a run has nothing to say.
        best: index of the best row; None where fewer than two runs have the metric.
    """

    header: list[str]
    rows: list[list[str]]
    best: int | None


def compare(runs: Sequence[Run], metric: str) -> Table:
    """Runs in their order, by a metric: what they are, their latency, what they reached and what it took."""
    varied, joined = [key for key in settings(runs) if key != "encoder"], []
    if len(varied) > _MOST_SETTINGS:
        varied, joined = [], varied
    more = [name for name in _MORE if name != metric and any(run.last(name) is not None for run in runs)]
    header = [
        "run",
        "state",
        *varied,
        *(["settings"] if joined else []),
        "look-ahead",
        "latency, mean",
        "parameters",
        title(metric),
    ]
    header += [_MORE[name] for name in more] + ["heard", "took"]
    rows = [
        [
            run.name,
            run.state,
            *(run.overrides.get(key, "") for key in varied),
            *([" ".join(f"{key}={run.overrides[key]}" for key in joined if key in run.overrides)] if joined else []),
            _known(run.latency.get("lookahead_ms"), milliseconds),
            _known(run.latency.get("latency_mean_ms"), milliseconds),
            _known(run.summary.get("parameters"), count),
            figure(metric, run.last(metric)),
            *(figure(name, run.last(name)) for name in more),
            _known(run.summary.get("hours_seen"), "{:.2f} h".format),
            _known(run.summary.get("seconds"), "{:.0f} s".format),
        ]
        for run in runs
    ]
    compared = sum(value is not None and math.isfinite(value) for value in (run.last(metric) for run in runs))
    return Table(header, rows, best(runs, metric) if compared > 1 else None)


def split(table: Table, width: int) -> list[list[int]]:
    """Numbers of the columns of a table in parts that fit a width, each part beginning with the first column."""
    widths = [max(map(len, cells)) + 3 for cells in zip(table.header, *table.rows, strict=True)]
    parts = [[0]]
    for column in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[number] for number in (*parts[-1], column)) >= width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def best(runs: Sequence[Run], metric: str) -> int | None:
    """The run with the best value of a metric."""
    found = [(value, number) for number, run in enumerate(runs) if (value := run.last(metric)) is not None]
    known = [(value, number) for value, number in found if math.isfinite(value)]
    return (max if rises(metric) else min)(known)[1] if known else None


def rises(metric: str) -> bool:
    """Whether more is better."""
    return metric.rpartition("/")[2].startswith(_RISING)


def title(metric: str) -> str:
    """val/cer: CER."""
    name = metric.rpartition("/")[2]
    return name.upper() if name in ("cer", "wer", "der", "eer") else name.replace("_", " ")


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.rpartition("/")[2].startswith(_SHARES)


def figure(metric: str, value: float | None) -> str:
    """A value as its metric is read."""
    if value is None:
        return ""
    if is_share(metric):
        return f"{value:.1%}"
    return f"{value:.0f}" if metric.endswith(_COUNTS) else f"{value:.3f}"


def _known(value: float | None, words: Callable[[float], str]) -> str:
    return "" if value is None else words(value)
