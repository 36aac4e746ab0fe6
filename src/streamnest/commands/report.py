"""Compares runs on one HTML page: `streamnest report`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from streamnest.commands.arguments.report import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import plain, printable, terminal
from streamnest.errors import UserError
from streamnest.locations import train_command
from streamnest.reporting.comparison import Run, find_runs
from streamnest.reporting.comparison.groups import comparable
from streamnest.reporting.comparison.learning import CurveAxes, trends
from streamnest.reporting.comparison.page import write_page
from streamnest.reporting.comparison.terminal import terminal_tables

# Width of a table in a pipe; on a terminal it is split into parts that fit.
_WIDTH = 220


def newest_sweep() -> Path:
    """Returns the folder of the latest sweep.

    Raises:
        UserError: if there is none.
    """
    logs = Path(os.environ.get("STREAMNEST_LOGS", "logs")) / "multiruns"
    found = {path.parent for path in logs.rglob("multirun.yaml")}
    if not found:
        raise UserError(
            f"no sweep in {logs}: start one with `{train_command()} -m sweep=latency`, or give folders of runs"
        )
    return max(found, key=lambda folder: (folder / "multirun.yaml").stat().st_mtime)


def _axes(args: argparse.Namespace, runs: Sequence[Run]) -> CurveAxes:
    names = args.labels or []
    if names and len(names) != len(runs):
        listed = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"--labels has {len(names)} names for {len(runs)} runs: give one for each of {listed}")
    named = {run.folder: name for run, name in zip(runs, names)}
    return CurveAxes(args.log_hours, args.log_values, named)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison and writes the page."""
    args = parse(argv)
    folders = args.folders or [newest_sweep()]
    runs = find_runs(folders)
    if args.metric and all(run.last(args.metric) is None for run in runs):
        known = sorted({name for run in runs for name in run.curves})
        raise UserError(f"no run has {args.metric}; they have: {', '.join(known) or 'no metrics at all'}")
    sections, axes = comparable(runs, args.metric), _axes(args, runs)
    console = terminal(_WIDTH)
    for heading, found in sections.items():
        console.print(*terminal_tables(heading, found, args.metric, console.width), sep="\n")
        for line in trends(found, args.metric or found[0].monitor, axes):
            console.print(plain(line), soft_wrap=True)
    if len(sections) > len({run.task for run in runs}):
        print("Runs with other objectives, masks, targets or validation sets are not ranked against each other.")
    print(printable(write_page(sections, args.out or folders[0] / "report", args.metric, args.title, folders, axes)))
    return 0
