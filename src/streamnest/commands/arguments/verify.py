"""Certifies the look-ahead of a model: `streamnest verify CHECKPOINT`, or with overrides, `encoder=causal`.

Measures look-ahead and left context, each stage in each mode, dependence on loudness, position and batch, and
streaming against offline output, and compares them with what the layers declare.

Exit status 0: everything holds; 1: something leaks; 2: the model cannot be built.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import SEED, THREADS, output_file, output_plot


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest verify", __doc__, {"--picture": "--plot"})
    made.add_argument("model", nargs="+", metavar="MODEL", help="checkpoint, or overrides of an untrained encoder")
    made.add_argument("--context", metavar="NAME", help="one context of encoder=dynamic (default: each of them)")
    made.add_argument("--audio", type=Path, metavar="FILE", help="also compare the stream of this file, of any length")
    made.add_argument(
        "--json", type=output_file, help="write the certificate to this file; a list for several contexts"
    )
    made.add_argument("--plot", type=output_plot, help="plot the receptive field of each output frame")
    made.add_argument("--seed", type=SEED, default=0, help="seed of the random splits")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
