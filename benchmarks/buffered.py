"""Measures what encoding the right context again costs: `python benchmarks/buffered.py`.

A buffered encoder and chunked ones of equal worst latency, equal mean latency and equal chunk are stepped in turns: one
stream, one thread, random weights, one chunk per step. Times are processor times, so that other work on the machine
matters less. Milliseconds per second of audio compare the encoders.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/buffered.py", __doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="config overrides of all rows, such as size=tiny"
    )
    parser.add_argument("--chunk-ms", type=float, default=160, help="chunk of the buffered encoder (default: 160)")
    parser.add_argument("--right-ms", type=float, default=160, help="its right context (default: 160)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each encoder (default: 5)")
    parser.add_argument("--count", type=int, default=20, help="timed steps in each turn (default: 20)")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import sys
import time
from pathlib import Path

import torch
from rich.table import Table
from streaming import time_chunks

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder_task import EncoderTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Left context of all encoders, in chunks of every one of them.
LEFT_CHUNKS_MS = 5000


def build(preset: str, chunk_ms: float, right_ms: float, overrides: list[str]) -> EncoderTask:
    """Builds an encoder with some seconds of past, in whole chunks."""
    left = f"encoder.left_context_ms={LEFT_CHUNKS_MS // chunk_ms * chunk_ms}"
    sizes = [f"encoder.right_context_ms={right_ms}", left]
    sizes += [f"encoder.chunk_ms={chunk_ms}"] if preset == "buffered" else []
    return resolve_model([f"encoder={preset}", *overrides, *sizes], CONFIGS)


@without_trace
def main() -> int:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chunk, right = args.chunk_ms, args.right_ms
    frame = build("causal", chunk, 0, args.overrides).encoder.frame_ms
    cases = {f"buffered, {chunk:g} + {right:g} ms": build("buffered", chunk, right, args.overrides)}
    for name, size in (("worst latency", chunk + right), ("mean latency", chunk + 2 * right), ("chunk", chunk)):
        cases[f"chunked, equal {name}"] = build("lookahead320", size, size - frame, args.overrides)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, model in cases.items():
            times[name] += time_chunks(model, 1, args.count, model.latency.chunk_ms, time.process_time)
    table = Table(title="One stream, one thread, in turns", title_justify="left")
    for column in (
        "encoder",
        "chunk, ms",
        "latency mean / worst, ms",
        "CPU ms per step, p50",
        "CPU ms per second of audio",
    ):
        table.add_column(column, justify="left" if column == "encoder" else "right")
    for name, model in cases.items():
        report, step = model.latency, 1000 * statistics.median(times[name])
        latency = f"{report.latency_mean_ms:g} / {report.latency_worst_ms:g}"
        table.add_row(name, f"{report.chunk_ms:g}", latency, f"{step:.1f}", f"{1000 * step / report.chunk_ms:.0f}")
    terminal(120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
