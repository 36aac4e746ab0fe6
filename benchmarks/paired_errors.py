"""Compares transcripts of the same utterances: `python benchmarks/paired_errors.py FIRST.json SECOND.json ...`.

The files are those of `streamnest transcribe --manifest ... --json FILE`. Prints the error rate of each file, and its
change relative to the first file and to the one before, with 95 % intervals of a bootstrap over utterances that are the
same for all files (Bisani and Ney 2004): such intervals are narrower than those of the rates. --plot draws the error
rate against the latency of the models, with a line for each folder.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from streamnest.console.arguments import ArgumentParser
from streamnest.console.entry_point import without_trace
from streamnest.console.option_types import output_plot
from streamnest.downstream.metrics.error_rates import UNITS, RecognizedUtterance, errors
from streamnest.errors import UserError, cause_of
from streamnest.frontier.intervals import Bootstrap, Estimate
from streamnest.plotting import INK, OKABE_ITO, heading, plain_axes, save
from streamnest.reporting.latency_axis import LatencyAxis


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/paired_errors.py", __doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="output of streamnest transcribe --json")
    parser.add_argument("--unit", choices=UNITS, default="cer", help="characters or words")
    parser.add_argument(
        "--plot", type=output_plot, metavar="IMAGE", help="write a plot of error rate against mean latency"
    )
    parser.add_argument("--title", default="Quality against latency", help="title of the plot")
    return parser.parse(argv)


@dataclass(frozen=True)
class Transcript:
    """Content of a file.

    Attributes:
        name: name of the file.
        folder: name of its folder.
        utterances: utterances by id.
        latency: mean latency in milliseconds, infinite for the whole utterance; NaN if unknown.
    """

    name: str
    folder: str
    utterances: dict[str, RecognizedUtterance]
    latency: float


def read(path: Path) -> Transcript:
    """Reads a file.

    Raises:
        UserError: if the file is not an output of `streamnest transcribe --json` with references.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        utterances = _utterances(content["utterances"])
        latency = content.get("latency_mean_ms", math.nan)
        latency = math.inf if latency is None else float(latency)
        if latency < 0:
            raise ValueError(f"latency_mean_ms is {latency:g}")
        return Transcript(path.stem, path.resolve().parent.name, utterances, latency)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cause = f"there is no {error}" if isinstance(error, LookupError) else cause_of(error)
        raise UserError(
            f"{path} is not an output of streamnest transcribe --manifest ... --json FILE: {cause}"
        ) from None


def _utterances(records: Any) -> dict[str, RecognizedUtterance]:
    """Returns the utterances by id; each has texts, and an id of its own."""
    utterances = {}
    for one in records:
        fields = one["id"], one["reference"], one["text"]
        if not all(isinstance(field, str) for field in fields):
            raise TypeError(f"id, reference and text of {fields[0]!r} must be texts")
        if fields[0] in utterances:
            raise ValueError(f"the id {fields[0]!r} occurs twice")
        utterances[fields[0]] = RecognizedUtterance(*fields)
    return utterances


def shared(files: Sequence[Transcript]) -> list[str]:
    """Returns the ids of the utterances that all files have.

    Raises:
        UserError: if there are none, if the references differ, or if all of them are empty.
    """
    tables = [file.utterances for file in files]
    ids = sorted(set.intersection(*map(set, tables)))
    if not ids:
        raise UserError("the files have no utterance in common: transcribe the same manifest")
    if other := [name for name in ids if len({table[name].reference for table in tables}) > 1]:
        raise UserError(f"the references of {other[0]} differ between the files: transcribe the same manifest")
    if not any(tables[0][name].reference.strip() for name in ids):
        raise UserError("all references are empty, so no error rate can be computed: transcribe cuts with texts")
    return ids


def plot(files: Sequence[Transcript], rates: Sequence[Estimate], unit: str, title: str) -> Figure:
    """Plots error rates with intervals against mean latency.

    Raises:
        UserError: if a file has no latency.
    """
    if unknown := [file.name for file in files if math.isnan(file.latency)]:
        raise UserError(f"{unknown[0]} has no latency: transcribe again, with a checkpoint instead of a graph")
    figure = Figure(figsize=(8.4, 5.2), dpi=130, layout="constrained")
    axes, axis = figure.subplots(), LatencyAxis(file.latency for file in files)
    folders = list(dict.fromkeys(file.folder for file in files))
    for folder, color, marker in zip(folders, OKABE_ITO, "osD^vP*"):
        points = [(f.latency, one) for f, one in zip(files, rates, strict=True) if f.folder == folder]
        points.sort(key=lambda point: point[0])
        style: dict[str, Any] = {"color": color, "ecolor": (color, 0.4), "marker": marker, "lw": 1.1}
        _errorbars(axes, axis, [point for point in points if math.isfinite(point[0])], {**style, "label": folder})
        _errorbars(axes, axis, [point for point in points if math.isinf(point[0])], {**style, "ls": ""})
    if len(folders) > 1:
        figure.legend(frameon=False, fontsize=9, labelcolor=INK, loc="outside lower center", ncols=3)
    axis.scale(axes)
    names: dict[float, list[str]] = {}
    for file in files:
        names.setdefault(file.latency, []).append(file.name)
    axis.name(axes, names)
    axes.set_ylabel(f"{'character' if unit == 'cer' else 'word'} error rate (%)")
    axes.grid(axis="y", alpha=0.25)
    plain_axes(axes)
    heading(figure, title, "95 % intervals over utterances")
    return figure


def _errorbars(axes: Axes, axis: LatencyAxis, points: Sequence[tuple[float, Estimate]], style: dict[str, Any]) -> None:
    places = [axis.place(latency) for latency, _ in points]
    value, low, high = (np.array([100 * getattr(one, k) for _, one in points]) for k in ("value", "low", "high"))
    axes.errorbar(places, value, yerr=[value - low, high - value], **style)


def _cell(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.low, estimate.high
    return f"{100 * estimate.value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    args = parse(argv)
    files = [read(path) for path in args.files]
    ids = shared(files)
    counts = [errors([file.utterances[name] for name in ids], args.unit)[None] for file in files]
    bootstrap = Bootstrap(1, len(ids))
    columns = ("file", f"{args.unit.upper()} %", "change against the first, %", "against the one before, %")
    table = Table(*columns, title=f"{len(ids)} utterances")
    rates = [bootstrap.rate(one) for one in counts]
    for index, (file, one) in enumerate(zip(files, counts, strict=True)):
        changes = [_cell(bootstrap.change(one, counts[k]), "+") for k in (0, index - 1)] if index else ["", ""]
        table.add_row(file.name, _cell(rates[index]), *changes)
    Console(width=140).print(table)
    if args.plot:
        print(save(plot(files, rates, args.unit, args.title), args.plot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
