"""Measures time and memory per second of audio against its length, with limited left context.

`python benchmarks/long_context.py` runs the encoder offline (d 256, 8 layers), forward and forward with backward, for
each length in turns. Memory is the growth of the resident peak in a process of its own.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/long_context.py", __doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60, 180, 600], help="lengths of the audio")
    parser.add_argument("--factors", type=int, nargs="+", default=[4, 8], choices=[4, 8], help="subsampling factors")
    parser.add_argument("--left", type=float, default=3200, help="left context in milliseconds")
    parser.add_argument("--right", type=float, default=0, help="right context in milliseconds")
    parser.add_argument("--runs", type=int, default=3, help="counted runs, of which the median is printed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--memory-of", nargs=3, metavar=("FACTOR", "SECONDS", "BACKWARD"), help=argparse.SUPPRESS)
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.table import Table

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder import EncoderConfig, FastConformer


def build(args: argparse.Namespace, factor: int) -> FastConformer:
    """Builds the encoder, with the dropout of training."""
    torch.manual_seed(0)
    return FastConformer(
        EncoderConfig(subsampling_factor=factor, left_context_ms=args.left, right_context_ms=args.right)
    )


def run(encoder: FastConformer, seconds: float, backward: bool) -> float:
    """Encodes noise; returns CPU milliseconds per second of audio."""
    features = torch.randn(1, encoder.num_mels, round(100 * seconds))
    begin = time.process_time()
    with torch.set_grad_enabled(backward):
        out, _ = encoder.train(backward)(features, torch.tensor([features.shape[-1]]))
        if backward:
            out.sum().backward()
    return 1000 * (time.process_time() - begin) / seconds


def times(args: argparse.Namespace, factor: int, backward: bool) -> dict[float, list[float]]:
    """Times all lengths in turns, after a run that is not counted."""
    encoder = build(args, factor)
    measured: dict[float, list[float]] = {seconds: [] for seconds in args.seconds}
    for count in range(args.runs + 1):
        for seconds, values in measured.items():
            # Short audio is repeated, so that each value covers as much time as the median length.
            repeats = max(1, round(statistics.median(args.seconds) / seconds)) if count else 1
            value = statistics.mean(run(encoder, seconds, backward) for _ in range(repeats))
            values += [value] if count else []
    return measured


def peak_memory(args: argparse.Namespace, factor: int, seconds: float, backward: bool) -> float:
    """Returns the gigabytes that one run adds to the resident peak of a new process."""
    context = ["--left", str(args.left), "--right", str(args.right), "--threads", str(args.threads)]
    command = [sys.executable, __file__, *context, "--memory-of", str(factor), str(seconds), str(int(backward))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def resident_peak_gb() -> float:
    """Returns the resident peak of this process; `getrusage` would include that of the parent process."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1e6


def print_memory(args: argparse.Namespace) -> None:
    """Runs once and prints what that added to the resident peak, as the child of `peak_memory`."""
    factor, seconds, backward = args.memory_of
    encoder = build(args, int(factor))
    before = resident_peak_gb()
    run(encoder, float(seconds), backward == "1")
    print(resident_peak_gb() - before)


@without_trace
def main() -> int:
    """Prints a row for each stride and direction."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_memory(args)
        return 0
    table = Table(
        title=f"CPU ms and peak MB per second of audio, {args.left:g} ms of left context", title_justify="left"
    )
    table.add_column("")
    for seconds in args.seconds:
        table.add_column(f"{seconds:g} s", justify="right")
    table.add_column("slowest / fastest", justify="right")
    for factor in args.factors:
        for backward in (False, True):
            name = f"{10 * factor} ms frames, forward" + (" + backward" if backward else "")
            measured = times(args, factor, backward)
            medians = [statistics.median(values) for values in measured.values()]
            spreads = [max(values) / min(values) - 1 for values in measured.values()]
            cells = [f"{median:.1f} (±{spread / 2:.0%})" for median, spread in zip(medians, spreads, strict=True)]
            table.add_row(f"{name}, ms", *cells, f"{max(medians) / min(medians):.2f}")
            peaks = [1000 * peak_memory(args, factor, seconds, backward) / seconds for seconds in args.seconds]
            table.add_row(f"{name}, MB", *(f"{peak:.1f}" for peak in peaks), "")
    terminal(120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
