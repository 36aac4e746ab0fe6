"""Compares runs on one HTML page: `streamnest report`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from streamnest.commands.arguments.report import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.errors import UserError
from streamnest.locations import train_command
from streamnest.reporting.comparison import Run, find_runs
from streamnest.reporting.comparison.groups import comparable
from streamnest.reporting.comparison.page import write_page
from streamnest.reporting.comparison.tables import compare, split

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


def shown(heading: str, runs: Sequence[Run], metric: str | None, width: int) -> Iterator[RichTable]:
    """Yields the table of comparable runs, in parts that fit the terminal."""
    found = compare(runs, metric or runs[0].monitor)
    for number, columns in enumerate(split(found, width)):
        title = f"{heading}{', the best in bold' if found.best is not None else ''}" if number == 0 else None
        table = RichTable(title=title, title_justify="left")
        for column in columns:
            table.add_column(found.header[column], justify="right" if column > 1 else "left", overflow="fold")
        for row, cells in enumerate(found.rows):
            table.add_row(*(cells[column] for column in columns), style="bold" if row == found.best else "")
        yield table


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison and writes the page."""
    args = parse(argv)
    folders = args.folders or [newest_sweep()]
    runs = find_runs(folders)
    if args.metric and all(run.last(args.metric) is None for run in runs):
        known = sorted({name for run in runs for name in run.curves})
        raise UserError(f"no run has {args.metric}; they have: {', '.join(known) or 'no metrics at all'}")
    sections = comparable(runs, args.metric)
    console = terminal(_WIDTH)
    for heading, found in sections.items():
        console.print(*shown(heading, found, args.metric, console.width), sep="\n")
    if len(sections) > len({run.task for run in runs}):
        print("Runs with different masking, targets or validation data are not compared with each other.")
    page_heading = args.title or f"{len(runs)} runs of {', '.join(folder.name for folder in folders)}"
    print(printable(write_page(sections, args.out or folders[0] / "report", args.metric, page_heading)))
    return 0
