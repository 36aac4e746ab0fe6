"""Measures the compute cost of streaming: `python benchmarks/streaming.py`.

One thread, steps of one chunk, random weights. For each size: milliseconds per chunk of one stream, and the number of
real-time streams per core when they are batched. The table also has the time to read the weights on this machine, which
is a lower bound for every step in float32.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Callable, Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/streaming.py", __doc__)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="config overrides for all rows, such as encoder.left_context_ms=5600",
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "medium", "large"], help="choices of size=")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32], help="streams stepped together")
    parser.add_argument("--chunk", type=float, default=0.08, help="seconds of audio per step")
    parser.add_argument("--export", action="store_true", help="also time the exported step, in float32 and int8")
    parser.add_argument("--count", type=int, default=60, help="timed steps")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.export import export_step
from streamnest.streaming.fast_step import FastStep
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.pack_weights import lay_out_for_steps
from streamnest.streaming.quantization import quantize_step
from streamnest.streaming.step import init_state, step

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
REFERENCE_FACTORS = (8, 4)
REFERENCE_SIZE = ["size.d_model=256", "size.num_layers=8", "size.num_heads=4", "size.subsampling_channels=256"]


@torch.inference_mode()
def time_chunks(
    model: EncoderTask, batch: int, count: int, chunk_ms: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Times `count` steps of `batch` streams in seconds, audio to encoder frames, `chunk_ms` of audio at a time."""
    encoder, hop = model.encoder, model.frontend.hop
    if chunk_ms < encoder.frame_ms or chunk_ms % encoder.frame_ms:
        raise UserError(f"--chunk {chunk_ms / 1000:g} must be a multiple of the encoder frame, {encoder.frame_ms:g} ms")
    lay_out_for_steps(model)
    chunk = round(chunk_ms / encoder.frame_ms) * encoder.subsampling.factor * hop
    first = encoder.first_features * hop + round(model.frontend.window_overhang_ms * model.frontend.sample_rate / 1000)
    warm = first + (encoder.context.left or 0) * encoder.subsampling.factor * hop
    audio = 0.1 * torch.randn(batch, warm - warm % chunk + first)
    state, encode = init_state(model, batch), FastStep(encoder)
    _, state = step(model, audio[:, :first], state)
    for piece in audio[:, first:].split(chunk, dim=1):
        _, state = step(model, piece, state, encode=encode)
    times, piece = [], 0.1 * torch.randn(batch, chunk)
    for _ in range(count):
        begin = clock()
        _, state = step(model, piece, state, encode=encode)
        times.append(clock() - begin)
    return times


def time_weights(model: EncoderTask, count: int) -> float:
    """Returns the median seconds to multiply a vector with each matrix of the encoder, which is bound by reading."""
    matrices = [p for p in model.encoder.parameters() if p.ndim == 2]
    vectors = {m.shape[1]: torch.randn(1, m.shape[1]) for m in matrices}
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        for matrix in matrices:
            torch.nn.functional.linear(vectors[matrix.shape[1]], matrix)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def time_session(path: Path, count: int) -> float:
    """Returns the median seconds of a step of an exported graph with a full cache."""
    session = OnnxSession(path)
    number, piece = session.open(), 0.1 * torch.randn(session.chunk_samples)
    times = []
    for _ in range(int(session.metadata["left_frames"]) + count):
        begin = time.perf_counter()
        session.push({number: piece})
        times.append(time.perf_counter() - begin)
    return statistics.median(times[-count:])


def time_exported(overrides: list[str], args: argparse.Namespace) -> list[float]:
    """Times an exported step in float32 and int8; its chunk is set by the right context."""
    model = resolve_model(["encoder=causal", *overrides, *args.overrides], CONFIGS)
    right = f"encoder.right_context_ms={1000 * args.chunk - model.encoder.frame_ms}"
    model = resolve_model(["encoder=causal", *overrides, *args.overrides, right], CONFIGS)
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "step.onnx", Path(folder) / "step.int8.onnx"
        export_step(model, path)
        quantize_step(path, small)
        return [time_session(file, args.count) for file in (path, small)]


def percentile(times: list[float], share: float) -> float:
    """Returns a percentile in milliseconds."""
    return 1000 * sorted(times)[min(len(times) - 1, int(share * len(times)))]


@torch.no_grad()
def row(label: str, overrides: list[str], args: argparse.Namespace) -> list[str]:
    """Measures one row of the table."""
    model = resolve_model(["encoder=causal", *overrides, *args.overrides], CONFIGS)
    chunk_ms = args.chunk * 1000
    one = time_chunks(model, 1, args.count, chunk_ms)
    streams = []
    for batch in args.batches:
        count = max(5, args.count // batch)
        streams.append(batch * args.chunk / statistics.median(time_chunks(model, batch, count, chunk_ms)))
    parameters = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    floor = 1000 * time_weights(model, args.count)
    exported = time_exported(overrides, args) if args.export else []
    return [
        label,
        f"{parameters:.1f}",
        f"{percentile(one, 0.5):.1f} / {percentile(one, 0.99):.1f}",
        f"{floor:.1f}",
        f"{percentile(one, 0.5) / chunk_ms:.3f}",
        *(f"{1000 * value:.1f}" for value in exported),
        *(f"{value:.0f}" for value in streams),
    ]


@without_trace
def main() -> int:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title=f"Steps of {1000 * args.chunk:g} ms, one thread", title_justify="left")
    exported = ("exported, ms", "int8, ms") if args.export else ()
    for name in ("size", "M parameters", "ms per chunk, p50 / p99", "reading weights, ms", "RTF", *exported):
        table.add_column(name, justify="right")
    for batch in args.batches:
        table.add_column(f"streams per core, batch {batch}", justify="right")
    cases = [
        (
            f"reference size, {factor}x",
            [*REFERENCE_SIZE, f"encoder.subsampling_factor={factor}", f"encoder.left_context_ms={700 * factor}"],
        )
        for factor in REFERENCE_FACTORS
    ]
    cases += [
        (f"{size}, {f}x", [f"size={size}", f"encoder.subsampling_factor={f}", "encoder.left_context_ms=5600"])
        for size in args.sizes
        for f in (4, 8)
    ]
    for label, overrides in cases:
        table.add_row(*row(label, overrides, args))
    console = terminal(140)
    console.print(table)
    console.print("Comparison with NeMo at the reference size: benchmarks/reference.py.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
