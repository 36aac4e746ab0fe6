"""Measures the processor time of a pretraining step of the default size: `python benchmarks/small_step.py`.

Optimizers and precisions take turns, so that their ratios hold on a busy machine; with `--compile`, steps with and
without `compile=true`. The audio is noise with the length of
a real batch; `--operators` lists the operators that take most of the time.
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
    parser = ArgumentParser("python benchmarks/small_step.py", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="config overrides, such as encoder=causal")
    parser.add_argument("--rows", type=int, default=8, help="utterances per batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each utterance")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each variant")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="compare AdamW with and without compile=true")
    parser.add_argument("--operators", type=int, default=0, metavar="N", help="list the N slowest operators")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import time
from collections.abc import Callable
from typing import TypeAlias

import torch
from accelerator_parts.pretraining_step import PretrainingStep, noise_batch
from rich.table import Table
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal

# Optimizer, products in bfloat16, compiled.
Variant: TypeAlias = tuple[str, bool, bool]
VARIANTS: list[Variant] = [(name, half, False) for name in ("adamw", "muon") for half in (False, True)]
COMPILED: list[Variant] = [("adamw", half, compiled) for half in (False, True) for compiled in (False, True)]


def stepper(args: argparse.Namespace, optimizer: str, bfloat16: bool, compiled: bool) -> Callable[[int], None]:
    """Returns a function that runs one whole step: features, codes, masks, forward, backward, clipping and update."""
    overrides = ["encoder=lookahead40", "frontend.dither=0", *args.overrides, f"optim.optimizer={optimizer}"]
    step = PretrainingStep([*overrides, f"compile={str(compiled).lower()}"], bfloat16=bfloat16)
    return lambda number: step(noise_batch(args.rows, args.seconds, number))


def _name(variant: Variant) -> str:
    optimizer, bfloat16, compiled = variant
    return f"{optimizer}, {'bfloat16' if bfloat16 else 'float32'}{', compiled' if compiled else ''}"


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    variants = COMPILED if args.compile else VARIANTS
    runs = {variant: stepper(args, *variant) for variant in variants}
    times: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for number in range(args.steps + 2):
        for variant, run in runs.items():
            before, graphs, begin = time.process_time(), counters["stats"]["unique_graphs"], time.perf_counter()
            run(number)
            if made := counters["stats"]["unique_graphs"] - graphs:
                print(f"step {number} of {_name(variant)} compiled {made} graphs: {time.perf_counter() - begin:.0f} s")
            if number >= 2:
                times[variant].append(1000 * (time.process_time() - before))
    seconds, first = args.rows * args.seconds, statistics.median(times[variants[0]])
    table = Table("variant", "CPU ms per step", "range", "relative", "h of audio per CPU-hour")
    for variant, took in times.items():
        middle = statistics.median(took)
        spread = f"{min(took):.0f} to {max(took):.0f}"
        speed = f"{seconds / middle * 1000:.0f}"
        table.add_row(_name(variant), f"{middle:.0f}", spread, f"{middle / first:.2f}", speed)
    terminal(100).print(table)
    if args.operators:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            runs[variants[0]](args.steps + 2)
        print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=args.operators))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
