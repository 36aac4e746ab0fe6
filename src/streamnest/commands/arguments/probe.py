"""Probes each layer of a frozen encoder: `streamnest probe CHECKPOINT`.

For each layer: accuracy of a linear probe for phones (frames) and speakers (utterances), error rate of one for
characters (lower is better), effective rank, and how well frames cluster. The first row is the log-mel input, as a
baseline; overrides such as encoder=lookahead40 instead of the checkpoint probe an untrained encoder. Without a manifest
the built-in sample is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.commands.arguments import add_max_left_ms
from streamnest.console.arguments import ArgumentParser


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest probe", __doc__, {"--picture": "--plot"})
    made.add_argument("model", nargs="+", metavar="MODEL", help="checkpoint, or overrides of an untrained encoder")
    made.add_argument(
        "--manifest",
        metavar="PATH",
        help="JSON lines with id, path, speaker, split, text (default: built-in corpus)",
    )
    made.add_argument("--phones", metavar="PATH", help="JSON lines: id, phones [[begin, end, label], ...] in seconds")
    made.add_argument("--most", type=int, default=600, help="largest number of utterances with phones, and without")
    made.add_argument("--clusters", type=int, default=100, help="number of k-means clusters")
    add_max_left_ms(made)
    made.add_argument("--seed", type=int, default=0, help="seed of the choice of utterances")
    made.add_argument("--threads", type=int, help="CPU threads (default: chosen by torch)")
    made.add_argument("--json", type=Path, help="write the results to this file")
    made.add_argument("--plot", type=Path, help="plot the results (.png or .svg)")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
