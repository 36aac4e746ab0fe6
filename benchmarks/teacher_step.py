"""Measures the processor time of a pretraining step with codes of a teacher: `python benchmarks/teacher_step.py`.

The teacher has the size of the student and sees the whole utterance. Steps without a teacher, with codes that it
computes, and with the same codes from the cache take turns, so that their ratios hold on a busy machine. The audio is
noise with the length of a real batch; hashing it, which is part of loading, is not measured.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/teacher_step.py", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="config overrides, such as size=tiny")
    parser.add_argument("--layer", type=int, default=3, help="layer of the teacher")
    parser.add_argument("--rows", type=int, default=8, help="utterances per batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each utterance")
    parser.add_argument("--steps", type=int, default=11, help="timed steps of each variant")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerator_parts.pretraining_step import PretrainingStep, build, noise_batch
from rich.table import Table

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.checkpoint.target_teacher import attach_teacher, load_target_teacher
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.targets import TeacherQuantizer


def taught_step(overrides: Sequence[str], layer: int, folder: Path) -> PretrainingStep:
    """Returns a step whose codes are those of a teacher with random weights, fitted to noise, with a cache."""
    path = folder / "teacher.ckpt"
    write_checkpoint(build(["encoder=bidirectional", *overrides], training=False), path)
    teacher = load_target_teacher(str(path), (layer,))
    choices = (f"quantizer.checkpoint={path}", f"quantizer.layer={layer}", f"quantizer.width={teacher.width}")
    step = PretrainingStep([*overrides, "quantizer=teacher", *choices, f"quantizer.cache={folder}"])
    attach_teacher(step.model, teacher)
    quantizer, batch = step.model.quantizer, noise_batch(16, 10.0, 10_000)
    assert isinstance(quantizer, TeacherQuantizer)
    quantizer.fit(quantizer.frames(batch.clean, batch.lengths).flatten(0, 1))
    quantizer.open_cache()
    return step


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    overrides = ["encoder=lookahead40", "frontend.dither=0", *args.overrides]
    with tempfile.TemporaryDirectory() as folder:
        taught = taught_step(overrides, args.layer, Path(folder))
        # The second step with a teacher finds the codes that the first one has computed.
        runs = {"no teacher": PretrainingStep(overrides), "teacher, not cached": taught, "teacher, cached": taught}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(args.steps + 2):
            batch = noise_batch(args.rows, args.seconds, number)
            batch = replace(batch, hashes=[f"{number} {row}".encode() for row in range(args.rows)])
            for name, run in runs.items():
                before = time.process_time()
                run(batch)
                if number >= 2:
                    times[name].append(1000 * (time.process_time() - before))
    first = statistics.median(times["no teacher"])
    table = Table("codes", "CPU ms per step", "range", "relative")
    for name, took in times.items():
        middle, spread = statistics.median(took), f"{min(took):.0f} to {max(took):.0f}"
        table.add_row(name, f"{middle:.0f}", spread, f"{middle / first:.2f}")
    terminal(100).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
