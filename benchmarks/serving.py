"""Delay and capacity of `streamnest serve`: `python benchmarks/serving.py CHECKPOINT`.

Starts the server with one and with two threads, each on as many cores, and clients that send speech in real time from
this process. Prints percentiles of the delay from the last sample that a frame needs to the result of this frame at the
client, and searches for the number of streams up to which the 99th percentile is at most twice the chunk.

--soak SECONDS runs clients that come and go instead: in real time, faster, slow to read, vanishing, and resuming. Exit
status 1: a text differs from that without a server, a stream was lost, or memory grew by more than a tenth. Run nothing
else on the machine.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/serving.py", __doc__)
    parser.add_argument("checkpoint", metavar="MODEL", help="checkpoint of task=ctc or rnnt, or exported CTC graph")
    parser.add_argument("--context", metavar="NAME", help="latency context of a dynamic checkpoint")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads, which are also cores")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16], help="streams of the first rows")
    parser.add_argument("--seconds", type=float, default=12.0, help="duration of each measurement")
    parser.add_argument("--piece", type=float, default=0.02, help="seconds of audio in a message")
    parser.add_argument("--audio", type=Path, default=ROOT / "data" / "sample16k" / "speech", help="a file or folder")
    parser.add_argument("--most", type=int, default=512, help="largest number of streams that the search tries")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="run a soak test for this long")
    parser.add_argument("--clients", type=int, default=8, help="clients of the soak test at any time")
    parser.add_argument("--quick", action="store_true", help="a few seconds of everything, to test this program")
    args = parser.parse(argv)
    if args.quick:
        args.threads, args.streams, args.seconds, args.most, args.soak, args.clients = [1], [2], 2.5, 2, 3.0, 5
    return args


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import asyncio
import itertools
import sys
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table
from serving_parts import clients
from serving_parts.clients import Audio
from serving_parts.process import ServerProcess, serving
from serving_parts.soak import KEEP_S, soak

from streamnest.commands.serve import load
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.downstream.exported import ExportedRecognizer
from streamnest.errors import UserError
from streamnest.streaming.audio_sources import find_audio, load_audio

_CLIPS = 12
_UNLIMITED = ("--streams", "10000", "--load", "100")


@dataclass(frozen=True)
class Row:
    """Measurement of a number of streams: delays in milliseconds, load, and processor time per second of audio."""

    threads: int
    streams: int
    p50: float
    p95: float
    p99: float
    load: float
    cpu_ms: float


def clips_in(path: Path, rate: int) -> list[Audio]:
    """Returns the files of a folder as 16-bit samples."""
    return [(load_audio(file, rate) * 32767).to(torch.int16).numpy() for file in find_audio([str(path)])]


async def measured(server: ServerProcess, threads: int, count: int, speech: Audio, rate: int, piece: int) -> Row:
    """Runs streams in real time, each with another part of the speech."""
    audio = [np.roll(speech, -at * len(speech) // count) for at in range(count)]
    cpu_s, audio_s = server.cpu_s, server.metrics()["audio_seconds_total"]
    running = asyncio.gather(*(clients.live(server.address, one, rate, piece) for one in audio))
    await asyncio.sleep(0.8 * len(speech) / rate)
    load = (await asyncio.to_thread(server.metrics))["load"]
    delays = sorted(itertools.chain.from_iterable(await running))
    if not delays:
        raise UserError(f"--seconds {len(speech) / rate:g} is too short for results: give at least 3")
    audio_s = server.metrics()["audio_seconds_total"] - audio_s
    cpu_ms = 1000 * (server.cpu_s - cpu_s) / audio_s
    p50, p95, p99 = (1000 * delays[min(len(delays) - 1, int(share * len(delays)))] for share in (0.5, 0.95, 0.99))
    return Row(threads, count, p50, p95, p99, load, cpu_ms)


def search(
    server: ServerProcess, args: argparse.Namespace, threads: int, clips: list[Audio], limit: float
) -> list[Row]:
    """Measures the given numbers of streams, then doubles and bisects until the limit in milliseconds is found."""
    rate = args.rate
    speech = np.resize(np.concatenate(clips), round(args.seconds * rate))
    rows = []

    def fits(count: int) -> bool:
        row = asyncio.run(measured(server, threads, count, speech, rate, round(args.piece * rate)))
        rows.append(row)
        print(f"{threads} threads, {count} streams: p99 {row.p99:.0f} ms", file=sys.stderr, flush=True)
        return row.p99 <= limit

    good, bad = 0, args.most + 1
    for count in args.streams:
        if fits(count):
            good = max(good, count)
        else:
            bad = min(bad, count)
    # Bisection ends at a tenth, below what repeated measurements differ by.
    while bad - good > max(1, good // 10):
        count = min(2 * good, args.most) if bad > args.most and good else (good + bad) // 2
        if fits(count):
            good = count
        else:
            bad = count
        if good >= args.most:
            break
    return sorted(rows, key=lambda row: row.streams)


def latency_ms(server: ServerProcess, rate: int) -> float:
    """Returns the duration of a chunk."""

    async def ask() -> float:
        async with clients.opened(server.address, rate) as (_, ready):
            return float(ready["chunk_ms"])

    return asyncio.run(ask())


@without_trace
def main() -> int:
    """Prints the table, or runs the soak test and returns 1 if it fails."""
    args = parse()
    args.device = "cpu"
    model = load(argparse.Namespace(**{**vars(args), "threads": 1}))
    if not isinstance(model, TextTask | ExportedRecognizer):
        raise UserError(f"{args.checkpoint} gives no text: give a checkpoint of task=ctc or rnnt")
    args.rate = model.sample_rate
    clips = clips_in(args.audio, args.rate)[:_CLIPS]
    if not args.soak or args.quick:
        rows = list[Row]()
        for threads in args.threads:
            context = ("--context", args.context) if args.context else ()
            with serving(args.checkpoint, threads, range(threads), *_UNLIMITED, *context) as server:
                chunk_ms = latency_ms(server, args.rate)
                rows += search(server, args, threads, clips, 2 * chunk_ms)
        show(rows, chunk_ms)
    if not args.soak:
        return 0
    recognizer = StreamingRecognizer(model)
    texts = [recognizer.push(clip) + recognizer.flush() for clip in clips]
    cores = range(args.threads[0])
    with serving(args.checkpoint, args.threads[0], cores, *_UNLIMITED, f"--keep-seconds={KEEP_S}") as server:
        result = asyncio.run(soak(server, args.soak, args.clients, clips, texts, args.rate))
    print(*result.lines(), sep="\n")
    return 0 if result.passed else 1


def show(rows: list[Row], chunk_ms: float) -> None:
    """Prints the table and the capacity of each number of threads."""
    table = Table(title=f"Delay at the client, chunk {chunk_ms:g} ms", title_justify="left")
    for name in ("threads", "streams", "p50, ms", "p95, ms", "p99, ms", "load", "CPU ms per s of audio"):
        table.add_column(name, justify="right")
    for row in rows:
        delays = (f"{delay:.0f}" for delay in (row.p50, row.p95, row.p99))
        table.add_row(str(row.threads), str(row.streams), *delays, f"{row.load:.2f}", f"{row.cpu_ms:.1f}")
    console = terminal(100)
    console.print(table)
    for threads in dict.fromkeys(row.threads for row in rows):
        most = max((row.streams for row in rows if row.threads == threads and row.p99 <= 2 * chunk_ms), default=0)
        console.print(f"{threads} threads: p99 within {2 * chunk_ms:g} ms up to {most} streams")


if __name__ == "__main__":
    sys.exit(main())
