"""Compares runs, on a page that needs no account and no network: `streamnest report [FOLDER...]`.

Reads what the runs wrote: a sweep under logs/multiruns, single runs under logs/runs, running and killed ones too.
Writes `index.html` with everything in it, and its pictures as PNG files beside it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.errors import UserError
from streamnest.reporting.comparison import find_runs
from streamnest.reporting.comparison.groups import comparable
from streamnest.reporting.comparison.page import write_page
from streamnest.reporting.comparison.terminal import terminal_tables

# Of a table that is piped; on a terminal it is split into parts that fit.
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
    sections = comparable(runs, args.metric)
    console = terminal(_WIDTH)
    for heading, found in sections.items():
        console.print(*terminal_tables(heading, found, args.metric, console.width), sep="\n")
    if len(sections) > len({run.task for run in runs}):
        print("Runs with other objectives, masks, targets or validation sets are not ranked against each other.")
    print(printable(write_page(sections, args.out or folders[0] / "report", args.metric, args.title, folders)))
    return 0
