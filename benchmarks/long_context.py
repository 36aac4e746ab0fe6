"""Measures time and memory per second of audio against its length, with limited left context.

`python benchmarks/long_context.py` runs the encoder offline, forward and forward with backward, for each length in
turns. Memory is the growth of the resident peak in a process of its own, for one utterance. Lengths that would need
more than --most-gb, extrapolated from the shorter ones, are left out. The allocator is set as in training.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence
from typing import Any

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS

# Settings of `size=tiny`, and those of the defaults of `EncoderConfig` (d 256, 8 layers).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 144, "num_layers": 4, "subsampling_channels": 64},
    "d256": {},
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/long_context.py", __doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60, 180, 600], help="lengths of the audio")
    parser.add_argument(
        "--batch-seconds", type=float, default=60, help="shorter audio is encoded in batches of so many seconds"
    )
    parser.add_argument("--factors", type=int, nargs="+", default=[4, 8], choices=[4, 8], help="subsampling factors")
    parser.add_argument("--size", choices=list(SIZES), default="d256", help="size of the encoder")
    parser.add_argument("--left", type=float, default=3200, help="left context in milliseconds")
    parser.add_argument("--right", type=float, default=0, help="right context in milliseconds")
    parser.add_argument("--runs", type=int, default=3, help="counted runs, of which the median is printed")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    parser.add_argument("--most-gb", type=float, default=6, help="largest memory of a run")
    parser.add_argument(
        "--against-mask", action="store_true", help="compare with attention over one mask instead, in turns"
    )
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
from unittest import mock

import torch
from rich.table import Table

from streamnest.console.allocator import keep_freed_memory
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder import EncoderConfig, FastConformer


def build(args: argparse.Namespace, factor: int) -> FastConformer:
    """Builds the encoder, with the dropout of training."""
    torch.manual_seed(0)
    context = {"left_context_ms": args.left, "right_context_ms": args.right}
    return FastConformer(EncoderConfig(subsampling_factor=factor, **SIZES[args.size], **context))


def run(encoder: FastConformer, rows: int, seconds: float, backward: bool) -> float:
    """Encodes a batch of noise; returns CPU milliseconds per second of audio."""
    features = torch.randn(rows, encoder.num_mels, round(100 * seconds))
    begin = time.process_time()
    with torch.set_grad_enabled(backward):
        out, _ = encoder.train(backward)(features, torch.full((rows,), features.shape[-1]))
        if backward:
            out.sum().backward()
    return 1000 * (time.process_time() - begin) / (rows * seconds)


def times(args: argparse.Namespace, factor: int, backward: bool, lengths: Sequence[float]) -> list[list[float]]:
    """Times all lengths in turns, after a run that is not counted."""
    encoder = build(args, factor)
    measured: list[list[float]] = [[] for _ in lengths]
    for count in range(args.runs + 1):
        for seconds, values in zip(lengths, measured, strict=True):
            rows = max(1, round(args.batch_seconds / seconds))
            # Short audio is repeated, so that each value covers as much time as the median length.
            repeats = max(1, round(statistics.median(lengths) / (rows * seconds))) if count else 1
            value = statistics.mean(run(encoder, rows, seconds, backward) for _ in range(repeats))
            values += [value] if count else []
    return measured


def memory(args: argparse.Namespace, factor: int, backward: bool) -> dict[float, float]:
    """Returns the gigabytes of each length, in ascending order, until the next would need more than `--most-gb`."""
    peaks: dict[float, float] = {}
    for seconds in sorted(args.seconds):
        last = max(peaks, default=seconds)
        if peaks.get(last, 0) / last * seconds > args.most_gb:
            break
        peaks[seconds] = peak_memory(args, factor, seconds, backward)
    return peaks


def peak_memory(args: argparse.Namespace, factor: int, seconds: float, backward: bool) -> float:
    """Returns the gigabytes that one run adds to the resident peak of a new process."""
    settings = {"size": args.size, "left": args.left, "right": args.right, "threads": args.threads}
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, *options, "--memory-of", str(factor), str(seconds), str(int(backward))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def resident_peak_gb() -> float:
    """Returns the resident peak of this process; `getrusage` would include that of the parent process."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1e6


def print_memory(args: argparse.Namespace) -> None:
    """Runs once and prints what that added to the resident peak, as the child of `peak_memory`."""
    factor, seconds, backward = args.memory_of
    encoder = build(args, int(factor))
    before = resident_peak_gb()
    run(encoder, 1, float(seconds), backward == "1")
    print(resident_peak_gb() - before)


def cells(args: argparse.Namespace, factor: int, backward: bool, lengths: Sequence[float]) -> list[str]:
    """Measures times; returns a cell for each length that fits in memory, and the ratio of the largest to the least."""
    measured = times(args, factor, backward, lengths)
    medians = [statistics.median(values) for values in measured]
    spreads = [max(values) / min(values) - 1 for values in measured]
    shown = [f"{median:.1f} (±{spread / 2:.0%})" for median, spread in zip(medians, spreads, strict=True)]
    missing = [""] * (len(args.seconds) - len(lengths))
    return [*shown, *missing, f"{max(medians) / min(medians):.2f}"]


def against_mask(args: argparse.Namespace, factor: int, backward: bool, seconds: float) -> float:
    """Returns the median ratio of the time of windows to that of one mask over all keys, run in turns."""
    encoder, ratios = build(args, factor), []
    rows = max(1, round(args.batch_seconds / seconds))
    for count in range(args.runs + 1):
        windowed = run(encoder, rows, seconds, backward)
        with mock.patch("streamnest.encoder.encoder.choose_windows", return_value=None):
            masked = run(encoder, rows, seconds, backward)
        ratios += [windowed / masked] if count else []
    return statistics.median(ratios)


def ratios(args: argparse.Namespace, rows: Sequence[tuple[int, bool]]) -> Table:
    """Returns the table of --against-mask."""
    table = Table(title=f"Time relative to one mask, {args.size}, {args.left:g} ms of left context")
    for column in ("", *(f"{seconds:g} s" for seconds in sorted(args.seconds))):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(title_of(*row), *(f"{against_mask(args, *row, s):.2f}" for s in sorted(args.seconds)))
    return table


def title_of(factor: int, backward: bool) -> str:
    """Returns the title of a row."""
    return f"{10 * factor} ms frames, forward" + (" + backward" if backward else "")


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints two rows for each stride and direction."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if args.memory_of:
        print_memory(args)
        return 0
    rows = [(factor, backward) for factor in args.factors for backward in (False, True)]
    if args.against_mask:
        terminal(120).print(ratios(args, rows))
        return 0
    title = f"CPU ms and peak MB per second of audio, {args.size}, {args.left:g} ms of left context"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for seconds in sorted(args.seconds):
        table.add_column(f"{seconds:g} s", justify="right")
    table.add_column("slowest / fastest", justify="right")
    # Memory first: this process keeps what it has allocated for timing.
    peaks = {row: memory(args, *row) for row in rows}
    for factor, backward in rows:
        name, sizes = title_of(factor, backward), peaks[factor, backward]
        table.add_row(f"{name}, ms", *cells(args, factor, backward, list(sizes)))
        table.add_row(f"{name}, MB", *(f"{1000 * peak / seconds:.1f}" for seconds, peak in sizes.items()))
    terminal(120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
