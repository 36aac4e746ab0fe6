"""Probes each layer of a frozen encoder: `streamnest probe CHECKPOINT`.

For each layer: accuracy of a linear probe for phones (frames) and speakers (utterances), error rate of one for
characters (lower is better), effective rank, and how well frames cluster. The first row is the log-mel input, as a
baseline; overrides such as encoder=lookahead40 instead of the checkpoint probe an untrained encoder. Without a manifest
the built-in sample is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.commands.arguments import add_max_left_ms
from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, PAIR, SEED, THREADS, output_file, output_plot


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
    made.add_argument("--most", type=COUNT, default=600, help="largest number of utterances with phones, and without")
    made.add_argument("--clusters", type=PAIR, default=100, help="number of k-means clusters")
    add_max_left_ms(made)
    made.add_argument("--seed", type=SEED, default=0, help="seed of the choice of utterances")
    made.add_argument("--threads", type=THREADS, help="CPU threads (default: chosen by torch)")
    made.add_argument("--json", type=output_file, help="write the results to this file")
    made.add_argument("--plot", type=output_plot, help="plot the results (.png or .svg)")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
