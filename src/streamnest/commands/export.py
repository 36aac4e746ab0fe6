"""Exports the streaming step of a checkpoint as ONNX: `streamnest export CKPT out.onnx`.

The graph hears audio and gives encoder frames; state is explicit, and everything that a program must know to drive it
is in the file (docs/EXPORT.md). What was written is then run with onnxruntime over a whole utterance and held against
PyTorch; --int8 also writes a quantised graph, out.int8.onnx, and reports its error. Exit status 1: the graph and
PyTorch differ by more than the tolerance; 2: the model cannot be exported.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from streamnest.checkpoint.loading import load_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.locations import sample_corpus
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession
from streamnest.streaming import simulation as sim
from streamnest.streaming.audio_sources import load_audio
from streamnest.streaming.export import export_step
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.quantization import quantize_step

SPEECH = sample_corpus() / "speech/asterisk_en-demo-moreinfo.ogg"


def measure(session: sim.Session, audio: Tensor, reference: Tensor, model: EncoderTask) -> dict[str, Any]:
    """Streams an utterance, one chunk at a time, and holds its frames against those of a reference."""
    chunk = session.chunk_samples / session.sample_rate
    frames, result = sim.simulate_streaming_inference(session, audio, chunk)
    found = {"p50_ms": result.compute_p50_ms, "p99_ms": result.compute_p99_ms, "windowed": result.windowed}
    if frames.shape != reference.shape:
        return {**found, "max_difference": math.inf, "mean_difference": math.inf, "same_codes": 0.0}
    difference = (frames - reference).abs()
    same = {}
    if isinstance(model, Pretraining):
        with torch.no_grad():
            codes = [model.objective.logits(x).argmax(-1) for x in (frames, reference)]
        same = {"same_codes": float((codes[0] == codes[1]).float().mean())}
    return {
        **found,
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "scale": float(reference.std()),
        **same,
    }


def compare(model: EncoderTask, files: list[Path], audio: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of PyTorch's own streaming and of each file, against the offline forward.

    An utterance that outgrows the cap of an unlimited left context is held against PyTorch's streaming instead.
    """
    with torch.no_grad():
        encoded, count = model(audio[None], torch.tensor([len(audio)]))
    offline = encoded[0, : int(count)]
    torch_session = StreamingSession(model, args.max_left_ms)
    figures = {"PyTorch": measure(torch_session, audio, offline, model)}
    if figures["PyTorch"]["windowed"]:
        offline = sim.simulate_streaming_inference(torch_session, audio)[0]
    for file in files:
        size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
        figures[str(file)] = {
            "megabytes": size / 1e6,
            **measure(OnnxSession(file, args.threads), audio, offline, model),
        }
    return figures


def show(figures: dict[str, Any], metadata: dict[str, Any], console: Console) -> None:
    """Prints what the graph waits for, and a row for PyTorch and each file."""
    table = Table(title="one chunk at a time, against the offline forward", title_justify="left")
    for column in ("", "MB", "max difference", "mean", "of scale", "same codes", "chunk p50 / p99 ms"):
        table.add_column(column, overflow="fold")
    for name, f in figures.items():
        size = f"{f['megabytes']:.1f}" if "megabytes" in f else ""
        share = f"{f['mean_difference'] / f['scale']:.2%}" if f.get("scale") else ""
        cells = [f"{f['max_difference']:.1e}" + (", windowed" if f["windowed"] else ""), f"{f['mean_difference']:.1e}"]
        table.add_row(
            name,
            size,
            *cells,
            share,
            f"{f['same_codes']:.1%}" if "same_codes" in f else "",
            f"{f['p50_ms']:.2f} / {f['p99_ms']:.2f}",
        )
    console.print(table)
    latency, state = metadata["latency"], metadata["state"]
    size = sum(math.prod(x["shape"][1:]) * np.dtype(x["dtype"]).itemsize for x in state) / 1e6
    console.print(
        f"a chunk is {metadata['chunk_samples']} samples and {metadata['chunk_frames']} frames; the state of a stream "
        f"is {len(state)} tensors, {size:.2f} MB"
    )
    mean, worst = latency["latency_mean_ms"], latency["latency_worst_ms"]
    console.print(f"algorithmic latency {mean:.1f} ms mean, {worst:.1f} ms worst")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint")
    parser.add_argument("output", type=Path, help="the file to write, out.onnx")
    parser.add_argument("--context", help="for checkpoints of encoder=dynamic: the name of the context to export")
    parser.add_argument("--int8", action="store_true", help="write out.int8.onnx too, with quantised weights")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--batch", type=int, default=1, help="streams in a step (default 1)")
    size.add_argument("--dynamic_batch", action="store_true", help="any number of streams in a step")
    parser.add_argument(
        "--max_left_ms",
        type=float,
        default=STREAM_LEFT_MS,
        help="cap of an unlimited left context (default %(default)s); decides the size of the state and the time",
    )
    parser.add_argument("--audio_path", type=Path, default=SPEECH, help="utterance to compare on (default: built-in)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference allowed, float32")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, in PyTorch and onnxruntime")
    parser.add_argument("--json", type=Path, help="write all figures here")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Exports, compares and reports."""
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}: give a number from 1")
    if args.output.suffix != ".onnx":
        raise UserError(f"{args.output}: the name of an exported model ends in .onnx")
    torch.set_num_threads(args.threads)
    model = load_model(args.checkpoint, args.context)
    audio = load_audio(args.audio_path, model.frontend.sample_rate)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    metadata = export_step(model, args.output, None if args.dynamic_batch else args.batch, args.max_left_ms)
    files = [args.output]
    if args.int8:
        files.append(args.output.with_suffix(".int8.onnx"))
        quantize_step(*files)
    figures = compare(model, files, audio, args)
    show(figures, metadata, terminal(140))
    if args.json:
        write_json(args.json, figures)
    worst = figures[str(args.output)]["max_difference"]
    if not worst <= args.tolerance:
        print(f"the exported graph and PyTorch differ by {worst:.1e}, more than {args.tolerance:g}", file=sys.stderr)
    return 0 if worst <= args.tolerance else 1


@without_trace
def main() -> int:
    """Turns a user's mistake into a message and status 2."""
    return run(parse())
