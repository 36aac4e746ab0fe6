"""Compares a streaming step with NVIDIA NeMo on one machine, in turns: `python benchmarks/reference.py PYTHON`.

PYTHON is the interpreter of an environment with nemo_toolkit[asr]. Both run steps of 80 ms, one stream, one thread,
d 256, 8 layers, 70 encoder frames of left context, random weights. NeMo is timed from features to encoder frames,
streamnest from audio to encoder frames except in the rows that say "features in". Exported steps run with onnxruntime.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Callable, Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/reference.py", __doc__)
    parser.add_argument("python", metavar="PYTHON", help="interpreter of an environment with nemo_toolkit[asr]")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each step, of which the median is printed")
    parser.add_argument("--count", type=int, default=40, help="steps per turn")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.table import Table
from streaming import CONFIGS, REFERENCE_FACTORS, REFERENCE_SIZE, time_chunks, time_session

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.export import export_step
from streamnest.streaming.fast_step import FastStep
from streamnest.streaming.pack_weights import lay_out_for_steps
from streamnest.streaming.quantization import quantize_step

CHUNK_MS = 80
PAST_FRAMES = 70
Timer = Callable[[int], float]


def reference(python: str, factor: int, *options: str) -> Timer:
    """Returns a timer of NeMo: median milliseconds of `count` steps, in a process that keeps running.

    Args:
        python: interpreter of an environment with NeMo.
        factor: subsampling factor.
        options: further arguments of `reference_step.py`.
    """
    script = Path(__file__).with_name("reference_step.py")
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        process = subprocess.Popen(
            [python, str(script), str(factor), *options], stdin=pipe, stdout=pipe, stderr=quiet, text=True
        )
    except OSError as error:
        raise UserError(f"{python} cannot be started: {error.strerror}") from None

    def measure(count: int) -> float:
        assert process.stdin and process.stdout
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("times "):
                return statistics.median(json.loads(line.removeprefix("times ")))
        raise UserError(f"{python} could not run {script.name} {factor}: run it by hand to see the error")

    return measure


def eager(model: EncoderTask) -> Timer:
    """Returns a timer of PyTorch steps, audio to encoder frames."""
    return lambda count: 1000 * statistics.median(time_chunks(model, 1, count, CHUNK_MS))


def eager_encoder(model: EncoderTask, fast: bool = True) -> Timer:
    """Times our step in PyTorch, features to encoder frames like the reference, with `FastStep` or without."""
    encoder, features = model.encoder, torch.randn(1, model.encoder.num_mels, CHUNK_MS // 10)
    lay_out_for_steps(model)
    step = FastStep(encoder) if fast else encoder.step
    with torch.inference_mode():
        _, start = encoder.step(torch.randn(1, encoder.num_mels, encoder.first_features), encoder.init_state(1))
        for _ in range(PAST_FRAMES):
            _, start = encoder.step(features, start)

    @torch.inference_mode()
    def measure(count: int) -> float:
        times, state = [], start
        for _ in range(count):
            begin = time.perf_counter()
            _, state = step(features, state)
            times.append(time.perf_counter() - begin)
        return 1000 * statistics.median(times)

    return measure


def timers(python: str, factor: int, folder: Path) -> dict[str, Timer]:
    """Returns all timers for one subsampling factor."""
    nemo = reference(python, factor)  # first, so that a wrong interpreter is reported at once
    frame_ms = 10 * factor
    context = [f"encoder.left_context_ms={PAST_FRAMES * frame_ms}", f"encoder.right_context_ms={CHUNK_MS - frame_ms}"]
    model = resolve_model(
        ["encoder=causal", *REFERENCE_SIZE, f"encoder.subsampling_factor={factor}", *context], CONFIGS
    )
    path, small = folder / f"{factor}.onnx", folder / f"{factor}.int8.onnx"
    export_step(model, path)
    quantize_step(path, small)
    return {
        "NeMo, PyTorch": nemo,
        "PyTorch, features in": eager_encoder(model),
        "features in, without FastStep": eager_encoder(model, fast=False),
        "PyTorch": eager(model),
        "exported, float32": lambda count: 1000 * time_session(path, count),
        "exported, int8": lambda count: 1000 * time_session(small, count),
    }


@without_trace
def main() -> int:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title=f"Steps of {CHUNK_MS} ms, one thread, d 256, 8 layers", title_justify="left")
    for name in ("subsampling", "step", "ms, median", "relative to NeMo"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for factor in REFERENCE_FACTORS:
            cases = timers(args.python, factor, Path(folder))
            rounds = [{name: measure(args.count) for name, measure in cases.items()} for _ in range(args.rounds)]
            first = next(iter(cases))
            for name in cases:
                ratio = statistics.median(times[name] / times[first] for times in rounds)
                middle = statistics.median(times[name] for times in rounds)
                table.add_row(f"{factor}x", name, f"{middle:.2f}", f"{ratio:.2f}")
    terminal(100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
