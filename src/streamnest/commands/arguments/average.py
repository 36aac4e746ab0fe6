"""Averages the weights of checkpoints: `streamnest average OUT CKPT CKPT ...`, or `... OUT RUN --last N`.

The mean of the last checkpoints of a run is often a little better than each of them. OUT is a checkpoint for all
commands, but without training state. The checkpoints must have one architecture and one vocabulary; counts, corpus
statistics and codebooks are those of the newest.

To keep the last five checkpoints of a run, train with callbacks.recent.save_top_k=5; one is saved after each
validation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import PAIR, output_file


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest average", __doc__)
    made.add_argument(
        "output", type=output_file, metavar="OUT", help="checkpoint to write; a file that exists is not replaced"
    )
    made.add_argument("checkpoints", nargs="+", metavar="CKPT", help="checkpoints, or with --last the folder of a run")
    made.add_argument("--last", type=PAIR, metavar="N", help="average the last N checkpoints of the run")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    made = parser()
    args = made.parse(argv)
    if args.last is not None and len(args.checkpoints) != 1:
        made.error("--last needs the folder of one run")
    return args
