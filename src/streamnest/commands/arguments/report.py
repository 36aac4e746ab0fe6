"""Compares runs on one HTML page: `streamnest report [FOLDER ...]`.

Reads finished, running and interrupted runs: a sweep under logs/multiruns, or single runs under logs/runs. Writes
index.html, which needs no network, and its plots as PNG files. The learning curves show the metric over the hours of
audio that each run has consumed, and whether it still improves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import output_folder


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest report", __doc__)
    made.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="runs or sweeps (default: the newest sweep)"
    )
    made.add_argument("--out", type=output_folder, help="folder of the page (default: `report` in the first FOLDER)")
    made.add_argument("--metric", metavar="NAME", help="such as val/gain (default: the metric the task monitors)")
    made.add_argument("--labels", nargs="+", metavar="TEXT", help="names of runs in learning curves, in order")
    made.add_argument("--log-hours", action="store_true", help="logarithmic axis of hours in learning curves")
    made.add_argument("--log-values", action="store_true", help="logarithmic axis of the metric in learning curves")
    made.add_argument("--title", metavar="TEXT", help="title of the page")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
