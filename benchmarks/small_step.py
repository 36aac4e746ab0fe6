"""Measures the processor time of a pretraining step of the default size: `python benchmarks/small_step.py`.

Optimizers and precisions take turns, so that their ratios hold on a busy machine. The audio is noise with the length of
a real batch; `--operators` lists the operators that take most of the time.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/small_step.py", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="config overrides, such as encoder=causal")
    parser.add_argument("--rows", type=int, default=8, help="utterances per batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each utterance")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--operators", type=int, default=0, metavar="N", help="list the N slowest operators")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import time
from collections.abc import Callable

import torch
from accelerator_parts.pretraining_step import PretrainingStep, noise_batch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal

VARIANTS = [("adamw", False), ("adamw", True), ("muon", False), ("muon", True)]


def stepper(args: argparse.Namespace, optimizer: str, bfloat16: bool) -> Callable[[int], None]:
    """Returns a function that runs one whole step: features, codes, masks, forward, backward, clipping and update."""
    overrides = ["encoder=lookahead40", "frontend.dither=0", *args.overrides, f"optim.optimizer={optimizer}"]
    step = PretrainingStep(overrides, bfloat16=bfloat16)
    return lambda number: step(noise_batch(args.rows, args.seconds, number))


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    runs = {variant: stepper(args, *variant) for variant in VARIANTS}
    times: dict[tuple[str, bool], list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(args.steps + 2):
        for variant, run in runs.items():
            before = time.process_time()
            run(number)
            if number >= 2:
                times[variant].append(1000 * (time.process_time() - before))
    seconds, first = args.rows * args.seconds, statistics.median(times[VARIANTS[0]])
    table = Table("optimizer", "products", "CPU ms per step", "range", "relative", "h of audio per CPU-hour")
    for (optimizer, bfloat16), took in times.items():
        middle = statistics.median(took)
        spread = f"{min(took):.0f} to {max(took):.0f}"
        precision = "bfloat16" if bfloat16 else "float32"
        table.add_row(
            optimizer, precision, f"{middle:.0f}", spread, f"{middle / first:.2f}", f"{seconds / middle * 1000:.0f}"
        )
    terminal(100).print(table)
    if args.operators:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            runs[VARIANTS[0]](args.steps + 2)
        print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=args.operators))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
