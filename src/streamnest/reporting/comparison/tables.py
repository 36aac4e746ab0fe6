"""Tables of runs: settings, latency, metrics and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamnest.curves.metrics import figure, rises, title
from streamnest.formatting import count, milliseconds
from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.runs import labels, settings

# Columns of further metrics, with their titles.
_MORE = ("val/gain", "val/accuracy", "val/wer", "val/perplexity", "val/codes_used", "val/rank")
# With more differing settings, all share one column.
_MOST_SETTINGS = 4
# Terminal: characters between cells, and the share of the width that the names of runs may take.
_BORDER, _NAME_SHARE = 3, 0.4


@dataclass(frozen=True)
class Table:
    """A table of runs.

    Attributes:
        header: titles of the columns.
        rows: texts of each run by column; empty if unknown.
        best: index of the best row, see `best`.
        common: titles and texts that are the same for all runs and therefore have no column.
    """

    header: list[str]
    rows: list[list[str]]
    best: int | None
    common: list[tuple[str, str]]


def compare(runs: Sequence[Run], metric: str) -> Table:
    """Makes the table of runs in their order; the first columns are the name and the metric to compare by."""
    columns = {"run": labels(runs), title(metric): [_value(run, metric) for run in runs]}
    kept = list(columns)
    for name in (name for name in _MORE if name != metric and any(run.last(name) is not None for run in runs)):
        columns[title(name)] = [figure(name, run.last(name)) for run in runs]
    columns |= _settings_columns(runs)
    kept += list(columns)[len(kept) :]
    # What follows has a column only if runs differ in it.
    columns |= {
        "look-ahead": [_known(run.latency.get("lookahead_ms"), milliseconds) for run in runs],
        "mean latency": [_known(run.latency.get("latency_mean_ms"), milliseconds) for run in runs],
        "parameters": [_known(run.summary.get("parameters"), count) for run in runs],
        "audio": [_known(run.summary.get("hours_seen"), "{:.2f} h".format) for run in runs],
        "time": [_known(run.summary.get("seconds"), _duration) for run in runs],
        "state": [run.state for run in runs],
    }
    same = [name for name in columns if name not in kept and len(set(columns[name])) == 1]
    common = [(name, columns.pop(name)[0]) for name in same]
    rows = [list(cells) for cells in zip(*columns.values(), strict=True)]
    return Table(list(columns), rows, best(runs, metric), [(name, text) for name, text in common if text])


def split(table: Table, width: int) -> list[dict[int, int]]:
    """Splits a table into parts that fit a terminal; every part starts with the names of the runs.

    Returns:
        The columns of each part with their widths; titles wrap between words and long names anywhere.
    """
    texts = zip(table.header, *table.rows, strict=True)
    widths = [max(*map(len, head.split()), *map(len, cells)) for head, *cells in texts]
    widths[0] = min(widths[0], round(_NAME_SHARE * width))
    parts = [{0: widths[0]}]
    for column, own in list(enumerate(widths))[1:]:
        if len(parts[-1]) > 1 and sum(one + _BORDER for one in (*parts[-1].values(), own)) >= width:
            parts.append({0: widths[0]})
        parts[-1][column] = min(own, width - widths[0] - 2 * _BORDER - 1)
    return parts


def best(runs: Sequence[Run], metric: str) -> int | None:
    """Returns the index of the run with the best value of a metric.

    None unless two or more runs can be ranked and their best value is unique.
    """
    values = {number: run.last(metric) for number, run in enumerate(runs) if run.rankable}
    known = {number: value for number, value in values.items() if value is not None and math.isfinite(value)}
    extreme = (max if rises(metric) else min)(known.values(), default=None)
    winners = [number for number, value in known.items() if value == extreme]
    return winners[0] if len(known) > 1 and len(winners) == 1 else None


def _settings_columns(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns a column for each setting that differs, or one for all of them if they are many."""
    varied = [key for key in settings(runs) if key != "encoder"]
    if len(varied) <= _MOST_SETTINGS:
        return {key: [run.setting(key) for run in runs] for key in varied}
    joined = [[f"{key}={run.overrides[key]}" for key in varied if key in run.overrides] for run in runs]
    return {"settings": [" ".join(texts) for texts in joined]}


def _value(run: Run, metric: str) -> str:
    text = figure(metric, run.last(metric))
    return text if run.rankable or not text else f"{text} (nothing masked)"


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
