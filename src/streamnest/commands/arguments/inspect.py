"""Shows the content of cut manifests or checkpoints: `streamnest inspect MANIFEST ... [--plot data.png]`.

Prints hours, cuts, speakers, durations, energy, broken files, and how well the cuts fill batches. Manifests are read
completely; energy and broken files come from a random sample of cuts that are decoded. For a checkpoint (.ckpt) or the
folder of a run, it prints task, preset, steps, hours of audio consumed, and the last validation.

Exit status 1: some audio is broken; 2: there is nothing to inspect.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, NATURAL, POSITIVE, SEED, output_plot


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest inspect", __doc__, {"--picture": "--plot"})
    made.add_argument("manifests", nargs="+", metavar="MANIFEST", help="cut manifests of one run, or checkpoints")
    made.add_argument("--sample", type=NATURAL, default=200, help="number of cuts to decode")
    made.add_argument("--seed", type=SEED, default=0, help="seed of the sample")
    made.add_argument("--allow-commands", action="store_true", help="run shell commands that manifests give as audio")
    made.add_argument("--plot", type=output_plot, help="plot the distributions (.png or .svg)")
    batches = made.add_argument_group("batches, as in the config group data")
    batches.add_argument("--batch-duration", type=POSITIVE, default=240.0, help="seconds per batch")
    batches.add_argument("--num-buckets", type=COUNT, default=30, help="duration buckets")
    batches.add_argument("--max-batch-size", type=COUNT, default=64, help="largest number of cuts per batch")
    batches.add_argument("--max-duration", type=POSITIVE, default=30.0, help="longest cut in seconds")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
