"""Compares runs, on a page that needs no account and no network: `python scripts/report.py [FOLDER...]`.

Reads what the runs wrote: a sweep under logs/multiruns, single runs under logs/runs, running and killed ones too.
Writes `index.html` with everything in it, and its pictures as PNG files beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as RichTable

from streamnest.commands import without_trace
from streamnest.comparison import Run, find_runs
from streamnest.comparison.page import write_page
from streamnest.comparison.tables import compare
from streamnest.errors import UserError
from streamnest.terminal import printable, terminal

# A narrower table would lose its figures; where it is piped, nothing wraps.
_WIDTH = 220


def newest_sweep() -> Path:
    """The folder of the latest sweep.

    Raises:
        UserError: where there is none.
    """
    logs = Path(os.environ.get("STREAMNEST_LOGS", "logs")) / "multiruns"
    found = {path.parent for path in logs.rglob("multirun.yaml")}
    if not found:
        raise UserError(f"no sweep in {logs}: start one by `python train.py -m sweep=latency`, or name folders of runs")
    return max(found, key=lambda folder: (folder / "multirun.yaml").stat().st_mtime)


def by_task(runs: Sequence[Run]) -> dict[str, Sequence[Run]]:
    """Runs of each task, in their order."""
    return {task: [run for run in runs if run.task == task] for task in dict.fromkeys(run.task for run in runs)}


def shown(task: str, runs: Sequence[Run], metric: str | None) -> RichTable:
    """The table of a task for a terminal."""
    found = compare(runs, metric or runs[0].monitor)
    table = RichTable(title=f"{task}, the best in bold", title_justify="left")
    for number, name in enumerate(found.header):
        table.add_column(name, justify="right" if number > 1 else "left", overflow="fold")
    for number, row in enumerate(found.rows):
        table.add_row(*row, style="bold" if number == found.best else "")
    return table


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of runs or sweeps; the newest sweep")
    parser.add_argument("--out", type=Path, help="folder of the page; `report` in the first FOLDER")
    parser.add_argument("--metric", help="such as val/gain; what the task monitors")
    parser.add_argument("--title", help="of the page")
    return parser.parse_intermixed_args(words)


@without_trace
def main() -> int:
    """Command line."""
    args = parse()
    folders = args.folders or [newest_sweep()]
    runs = find_runs(folders)
    if args.metric and all(run.last(args.metric) is None for run in runs):
        known = sorted({name for run in runs for name in run.curves})
        raise UserError(f"no run has {args.metric}; they have: {', '.join(known) or 'no metrics at all'}")
    sections = by_task(runs)
    console = terminal(_WIDTH)
    for task, found in sections.items():
        console.print(shown(task, found, args.metric))
    heading = args.title or f"{len(runs)} runs of {', '.join(folder.name for folder in folders)}"
    print(printable(write_page(sections, args.out or folders[0] / "report", args.metric, heading)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
