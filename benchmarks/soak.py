"""Soak test of streaming, time and memory over hours: `python benchmarks/soak.py CHECKPOINT`.

Repeats speech of the built-in corpus in one stream that is never reset, and prints a line for each part of it. Exit
status 1: between the first and the last part, memory grew by more than a tenth, or the time per second of audio by
more than a quarter. Run nothing else on the machine.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/soak.py", __doc__)
    parser.add_argument(
        "model", nargs="+", metavar="MODEL", help="a checkpoint, or config overrides such as encoder=limited3200"
    )
    parser.add_argument("--minutes", type=float, default=60, help="minutes of audio in total")
    parser.add_argument("--part", type=float, default=10, help="minutes of audio per line of the table")
    parser.add_argument("--piece", type=float, default=0.08, help="seconds of audio pushed at a time")
    parser.add_argument("--audio", type=Path, default=ROOT / "data" / "sample16k", help="a file or folder to repeat")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import sys
import time

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.errors import UserError
from streamnest.streaming import StreamingSession
from streamnest.streaming.audio_sources import find_audio, load_audio

# Largest ratio of the last part to the first; other processes influence time, not memory.
_MEMORY_GROWTH, _TIME_GROWTH = 1.1, 1.25


def resident_gb() -> float:
    """Returns the resident memory of this process; 0 if the system does not report it."""
    status = Path("/proc/self/status")
    return int(status.read_text(encoding="utf-8").partition("VmRSS:")[2].split()[0]) / 1e6 if status.is_file() else 0.0


def endless(files: list[Path], rate: int, samples: int) -> Iterator[Tensor]:
    """Yields pieces of `samples` samples from the files, repeated endlessly."""
    rest = torch.zeros(0)
    while True:
        for path in files:
            rest = torch.cat([rest, load_audio(path, rate)])
            while len(rest) >= samples:
                yield rest[:samples]
                rest = rest[samples:]


def soak(args: argparse.Namespace) -> list[tuple[float, float, float, float]]:
    """Returns for each part: minutes streamed, milliseconds per second of audio, p99 of a piece, and memory."""
    model = resolve_model(args.model, ROOT / "configs").eval()
    session, rate = StreamingSession(model), model.frontend.sample_rate
    pieces = endless(find_audio([str(args.audio)]), rate, round(args.piece * rate))
    number, parts, spent = session.open(), [], list[float]()
    total, per_part = round(60 * args.minutes / args.piece), round(60 * args.part / args.piece)
    for count in track(range(1, total + 1), "streaming", console=terminal(stderr=True)):
        piece = next(pieces)
        begin = time.perf_counter()
        session.push({number: piece})
        spent.append(1000 * (time.perf_counter() - begin))
        if count % per_part == 0:
            cost, worst = statistics.mean(spent) / args.piece, sorted(spent)[int(0.99 * len(spent))]
            parts.append((count * args.piece / 60, cost, worst, resident_gb()))
            spent = []
    return parts


@without_trace
def main() -> int:
    """Prints the table and returns 1 if time or memory grew."""
    args = parse()
    if not 0 < args.piece / 60 <= args.part <= args.minutes / 2:
        raise UserError(f"--minutes {args.minutes:g} --part {args.part:g}: there must be at least two parts")
    torch.set_num_threads(args.threads)
    parts = soak(args)
    table = Table(title="One stream, never reset", title_justify="left")
    for name in ("minutes streamed", "ms per second of audio", "ms per piece, p99", "memory, GB"):
        table.add_column(name, justify="right")
    for minutes, cost, worst, memory in parts:
        table.add_row(f"{minutes:g}", f"{cost:.1f}", f"{worst:.1f}", f"{memory:.3f}")
    console = terminal(100)
    console.print(table)
    time_growth = parts[-1][1] / parts[0][1]
    memory_growth = parts[-1][3] / parts[0][3] if parts[0][3] else 1.0
    console.print(f"last part divided by first: time {time_growth:.2f}, memory {memory_growth:.3f}")
    return 1 if memory_growth > _MEMORY_GROWTH or time_growth > _TIME_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
