"""Measures time and memory of one pretraining step, stage by stage: `python benchmarks/training_step.py`."""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS

# The sizes of `reference_training.py`.
BATCH, SECONDS_EACH = 8, 8.0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/training_step.py", __doc__)
    parser.add_argument("--threads", type=THREADS, default=2, help="CPU threads")
    parser.add_argument("--batch", type=int, default=BATCH, help="utterances per batch")
    parser.add_argument("--seconds", type=float, default=SECONDS_EACH, help="length of each utterance")
    parser.add_argument("--runs", type=int, default=5, help="counted runs, of which the median is printed")
    parser.add_argument("--factors", type=int, nargs="+", default=[8, 4], choices=[4, 8], help="subsampling factors")
    parser.add_argument("--memory-of", nargs=3, metavar=("FACTOR", "RIGHT", "PRECISION"), help=argparse.SUPPRESS)
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import importlib
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from streamnest.console.terminal import terminal
from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.frontend import LogMel
from streamnest.masking import RandomBlockMasking
from streamnest.normalization import Normalizer
from streamnest.objectives import MaskedPrediction
from streamnest.quantizer import RandomProjectionQuantizer

CONTEXTS = {"causal": 0.0, "bidirectional": None}  # right context in ms; times are relative to the last one
STAGES = ("features", "codes", "mask", "encoder", "loss", "backward", "optimizer")


class Step:
    """One full training step of the reference sizes: d 256, 8 layers, 4 heads, 8192 codes, dropout 0.1."""

    def __init__(self, factor: int, right_ms: float | None, batch: int, seconds: float) -> None:
        offline = right_ms is None
        self.frontend, self.norm = LogMel().train(), Normalizer("utterance")
        self.encoder = FastConformer(
            EncoderConfig(
                subsampling_factor=factor,
                right_context_ms=right_ms,
                style="regular" if offline else "chunked",
                conv_padding="symmetric" if offline else "causal",
                conv_norm="batch_norm" if offline else "layer_norm",
            )
        ).train()
        self.masking = RandomBlockMasking(80, mask_prob=0.01, block_size=40, allow_overlap=True)
        self.quantizer = RandomProjectionQuantizer(80, factor, 8192, 1, 16, seed=0)
        self.objective = MaskedPrediction(256, 8192, 1).train()
        self.parameters = [*self.encoder.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.clean = 0.1 * torch.randn(batch, int(16000 * seconds), generator=generator)
        self.noisy = self.clean + 0.01 * torch.randn(self.clean.shape, generator=generator)
        self.lengths = torch.full((batch,), self.clean.shape[1])
        self.keys = torch.arange(batch)

    def run(self, precision: str, stage: Callable[[str], AbstractContextManager[None]]) -> None:
        """Runs the step; `stage` wraps each part of it."""
        with stage("features"):
            clean, frames = self.frontend(self.clean, self.lengths, self.keys)
            noisy, _ = self.frontend(self.noisy, self.lengths, self.keys)
            noisy = self.norm(noisy, frames)
        with stage("codes"):
            codes = self.quantizer(self.norm(clean, frames))
        with stage("mask"):
            mask = self.masking.sample(frames, noisy.shape[-1], keys=self.keys)
            noisy = self.masking.apply(noisy, mask)
            selected = self.objective.select(mask, frames, self.quantizer.stack)
        with autocast(precision):
            with stage("encoder"):
                encoded, _ = self.encoder(noisy, frames)
            with stage("loss"):
                result = self.objective.predict(encoded, codes, selected)
                loss = result.loss_sum / max(1, result.count)
        with stage("backward"):
            loss.backward()
        with stage("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def autocast(precision: str) -> AbstractContextManager[None]:
    """Returns the autocast context of Lightning's bf16-mixed."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def measure(step: Step, precision: str) -> dict[str, float]:
    """Returns the seconds of each stage of one step, and the matrix peak just before it in GFLOP/s."""
    times: dict[str, float] = {"peak": matrix_peak(precision)}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        times[name] = time.perf_counter() - begin

    step.run(precision, timed)
    times["total"] = sum(times[name] for name in STAGES)
    return times


def measure_in_turns(steps: Sequence[Step], precision: str, runs: int) -> list[dict[str, float]]:
    """Returns the medians of each step. Steps run in turns, so that a slower machine slows all of them."""
    rows = [[measure(step, precision) for step in steps] for _ in range(runs + 1)][1:]
    return [{key: statistics.median(row[i][key] for row in rows) for key in rows[0][i]} for i in range(len(steps))]


def matrix_peak(precision: str) -> float:
    """Measures the GFLOP/s of square matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def rate(size: int) -> float:
        matrix = torch.randn(size, size, dtype=dtype)
        begin = time.perf_counter()
        matrix @ matrix
        return 2 * size**3 / (time.perf_counter() - begin) / 1e9

    # If the processor only emulates bfloat16, large products take minutes: small ones show it at once. The best of
    # several counts, because the first ones start threads.
    small = max(rate(256) for _ in range(5))
    return small if small < 5.0 else statistics.median(rate(2048) for _ in range(5))


def count_flops(step: Step) -> float:
    """Counts the floating-point operations of one step from the operators that ran."""
    with FlopCounterMode(display=False) as counter:
        step.run("fp32", lambda _: nullcontext())
    return float(counter.get_total_flops())


def peak_memory(args: argparse.Namespace, factor: int, right_ms: float | None, precision: str) -> float:
    """Measures the gigabytes that a step needs beyond its imports, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(factor), str(right_ms), precision]
    command += ["--batch", str(args.batch), "--seconds", str(args.seconds), "--threads", str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(args: argparse.Namespace) -> None:
    """Runs three steps and prints what they added to the resident peak, as the child of `peak_memory`."""
    factor, right, precision = args.memory_of
    importlib.import_module("torch._dynamo")  # imported by the first optimizer, and not part of the step
    before = peak_resident()
    step = Step(int(factor), None if right == "None" else float(right), args.batch, args.seconds)
    for _ in range(3):
        step.run(precision, lambda _: nullcontext())
    print((peak_resident() - before) / 1e9)


def peak_resident() -> int:
    """Returns the largest resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss includes the size of the parent when it started this process
        return 1024 * int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def benchmark(args: argparse.Namespace) -> None:
    """Prints the table of stages."""
    table = Table(title=f"One training step, {args.batch} x {args.seconds:g} s, {args.threads} threads (ms)")
    results: list[dict[str, float]] = []
    peaks = {name: matrix_peak(name) for name in ("fp32", "bf16")}
    precisions = [name for name, peak in peaks.items() if peak > 0.25 * peaks["fp32"]]
    table.add_column("stage")
    for factor, precision in itertools.product(args.factors, precisions):
        steps = [Step(factor, right_ms, args.batch, args.seconds) for right_ms in CONTEXTS.values()]
        rows = measure_in_turns(steps, precision, args.runs)
        for (context, right_ms), step, row in zip(CONTEXTS.items(), steps, rows, strict=True):
            row |= {"factor": factor, "gflop": count_flops(step) / 1e9, "against": row["total"] / rows[-1]["total"]}
            row["memory"] = peak_memory(args, factor, right_ms, precision)
            results.append(row)
            table.add_column(f"{factor}x {context} {precision}", justify="right")
    for name in (*STAGES, "total"):
        table.add_row(name, *(f"{1000 * row[name]:.0f}" for row in results), style="bold" if name == "total" else "")
    _add_figures(table, results, args.batch * args.seconds)
    console = terminal(130)
    console.print(table)
    console.print("Beside NeMo, in turns: benchmarks/reference_training.py.")
    if "bf16" not in precisions:
        console.print("bf16 is left out: this processor emulates it, which takes minutes per step.")


def _add_figures(table: Table, results: list[dict[str, float]], audio: float) -> None:
    def add(name: str, value: Callable[[dict[str, float]], str]) -> None:
        table.add_row(name, *map(value, results))

    add("audio s per s", lambda row: f"{audio / row['total']:.0f}")
    add("time / bidirectional", lambda row: f"{row['against']:.2f}")
    add("GFLOP", lambda row: f"{row['gflop']:.0f}")
    add("matrix peak, GFLOP/s", lambda row: f"{row['peak']:.0f}")
    add("share of matrix peak", lambda row: f"{row['gflop'] / row['total'] / row['peak']:.0%}")
    add("memory, GB", lambda row: f"{row['memory']:.2f}")


if __name__ == "__main__":
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        print_memory(arguments)
    else:
        benchmark(arguments)
