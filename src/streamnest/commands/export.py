"""Writes the streaming step of a model as ONNX and compares it with PyTorch: `streamnest export`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from streamnest.checkpoint.loading import load_model
from streamnest.commands.arguments.export import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import write_json
from streamnest.interop.sherpa.report import export_and_compare
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession
from streamnest.streaming.audio_sources import load_audio
from streamnest.streaming.export import export_step
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.quantization import quantize_step
from streamnest.streaming.session_base import Session
from streamnest.streaming.simulation import simulate_streaming_inference


def measure(session: Session[Any], audio: Tensor, reference: Tensor, model: EncoderTask) -> dict[str, Any]:
    """Streams an utterance, one chunk at a time, and compares its frames with those of a reference."""
    frames, result = simulate_streaming_inference(session, audio)
    cost = {"p50_ms": result.compute_p50_ms, "p99_ms": result.compute_p99_ms, "windowed": result.windowed}
    if frames.shape != reference.shape:
        return {**cost, "max_difference": math.inf, "mean_difference": math.inf, "same_codes": 0.0}
    difference = (frames - reference).abs()
    same = {}
    if isinstance(model, Pretraining):
        with torch.no_grad():
            codes = [model.objective.logits(x).argmax(-1) for x in (frames, reference)]
        same = {"same_codes": float((codes[0] == codes[1]).float().mean())}
    return {
        **cost,
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "scale": float(reference.std()),
        **same,
    }


def compare(model: EncoderTask, files: list[Path], audio: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """Compares the streaming output of PyTorch and of each file with the offline output.

    The reference is the streaming output of PyTorch if the utterance exceeds the cap of an unlimited left context.
    """
    with torch.no_grad():
        encoded, count = model(audio[None], torch.tensor([len(audio)]))
    offline = encoded[0, : int(count)]
    torch_session = StreamingSession(model, args.max_left_ms)
    figures = {"PyTorch": measure(torch_session, audio, offline, model)}
    if figures["PyTorch"]["windowed"]:
        offline = simulate_streaming_inference(torch_session, audio)[0]
    for file in files:
        size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
        figures[str(file)] = {
            "megabytes": size / 1e6,
            **measure(OnnxSession(file, args.threads), audio, offline, model),
        }
    return figures


def show(figures: dict[str, Any], metadata: dict[str, Any], console: Console) -> None:
    """Prints a row for PyTorch and each file, the chunk and state of the graph, and its algorithmic latency."""
    table = Table(title="Streaming output, one chunk at a time, compared with offline output", title_justify="left")
    for column in ("runtime", "MB", "max difference", "mean", "relative", "same codes", "chunk p50 / p99 ms"):
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
        f"chunk: {metadata['chunk_samples']} samples, {metadata['chunk_frames']} frames; state of a stream: "
        f"{len(state)} tensors, {size:.2f} MB"
    )
    mean, worst = latency["latency_mean_ms"], latency["latency_worst_ms"]
    console.print(f"algorithmic latency {mean:.1f} ms mean, {worst:.1f} ms worst")


def run(args: argparse.Namespace) -> int:
    """Exports a model, compares it with PyTorch, and returns the exit status."""
    if args.batch < 1:
        raise UserError(f"--batch {args.batch} must be at least 1")
    _check_output(args)
    torch.set_num_threads(args.threads)
    model = load_model(args.checkpoint, args.context)
    audio = load_audio(args.audio_path, model.frontend.sample_rate)
    if args.format == "sherpa":
        figures, worst = export_and_compare(model, args.output, audio, args.max_left_ms, args.threads)
        return _status(figures, worst, args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    metadata = export_step(model, args.output, None if args.dynamic_batch else args.batch, args.max_left_ms)
    files = [args.output]
    if args.int8:
        files.append(args.output.with_suffix(".int8.onnx"))
        quantize_step(*files)
    figures = compare(model, files, audio, args)
    show(figures, metadata, terminal(140))
    return _status(figures, figures[str(args.output)]["max_difference"], args)


def _check_output(args: argparse.Namespace) -> None:
    sherpa = args.format == "sherpa"
    if not sherpa and args.output.suffix != ".onnx":
        raise UserError(f"{args.output}: the name of an exported model must end in .onnx")
    if sherpa and (args.output.suffix == ".onnx" or args.output.is_file()):
        raise UserError(f"{args.output}: --format sherpa writes several files; give the name of a folder")
    if sherpa and (args.batch != 1 or args.dynamic_batch):
        raise UserError("--format sherpa has a batch of any size: leave out --batch and --dynamic-batch")


def _status(figures: dict[str, Any], worst: float, args: argparse.Namespace) -> int:
    """Writes the measurements and returns the exit status for a largest difference of the float32 graph."""
    if args.json:
        write_json(args.json, figures)
    if not worst <= args.tolerance:
        print(f"the exported graph and PyTorch differ by {worst:.1e}, more than {args.tolerance:g}", file=sys.stderr)
    return 0 if worst <= args.tolerance else 1


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
