"""Compares a training step with NVIDIA NeMo on one machine, in turns: `python benchmarks/reference_training.py PYTHON`.

PYTHON is the interpreter of an environment with nemo_toolkit[asr]. Both run whole steps of pretraining on 8 x 8 s:
features of clean and noisy audio, codes, mask, encoder, loss, backward, AdamW; d 256, 8 layers, 4 heads, 8192 codes,
dropout 0.1, float32. The ratio of each turn divides the time of NeMo by ours.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/reference_training.py", __doc__)
    parser.add_argument("python", metavar="PYTHON", help="interpreter of an environment with nemo_toolkit[asr]")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each step, of which the median is printed")
    parser.add_argument("--threads", type=THREADS, default=2, help="CPU threads")
    parser.add_argument("--factors", type=int, nargs="+", default=[8, 4], choices=[4, 8], help="subsampling factors")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import sys
from contextlib import nullcontext

import torch
from reference import reference
from rich.table import Table
from training_step import BATCH, CONTEXTS, SECONDS_EACH, Step, matrix_peak, measure

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal


def compare(python: str, factor: int, context: str, rounds: int, threads: int) -> list[str]:
    """Runs both in turns.

    Returns:
        Cells: medians of NeMo and of streamnest in ms, and the ratio, with its range over the turns in parentheses.
    """
    nemo = reference(python, factor, "--training", context, "--threads", str(threads))
    step = Step(factor, CONTEXTS[context], BATCH, SECONDS_EACH)
    step.run("fp32", lambda _: nullcontext())
    pairs = [(nemo(1), 1000 * measure(step, "fp32")["total"]) for _ in range(rounds)]
    theirs, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return [f"{theirs:.0f}", f"{ours:.0f}", spread]


@without_trace
def main() -> int:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    title = f"A training step of {BATCH} x {SECONDS_EACH:g} s, {args.threads} threads, float32, {args.rounds} turns"
    table = Table(title=title, title_justify="left")
    for name in ("subsampling", "context", "NeMo, ms", "streamnest, ms", "ratio, median (range)"):
        table.add_column(name, justify="right")
    for factor in args.factors:
        for context in CONTEXTS:
            cells = compare(args.python, factor, context, args.rounds, args.threads)
            table.add_row(f"{factor}x", context, *cells)
    console = terminal(110)
    console.print(table)
    console.print(f"Matrix products: {matrix_peak('fp32'):.0f} GFLOP/s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
