"""Checks and times on a GPU, in at most four minutes, what a CPU cannot show: `python benchmarks/accelerator.py`.

parity: random numbers, masks, codes and encoder outputs equal those of the CPU in float32.
step: training step in float32 and bfloat16, with model FLOPs utilization and peak memory.
loader: speed of the data loader beside that of training.
ddp: a run of one process with and without DistributedDataParallel.
stream: streaming steps with and without CUDA graphs, and streams per device.

Without a GPU it measures a small model, which only tests the program. Each part runs within its share of the time; if
one fails, the others still run, and the exit status is 1.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import output_file

PARTS = ["parity", "step", "loader", "ddp", "stream"]
# With the time of a measurement that is stopped when its share is used up, this is four minutes.
SECONDS = 210.0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/accelerator.py", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="config overrides of the measured model")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--device", choices=["auto", "cuda", "mps", "cpu"], default="auto", help="device to measure")
    parser.add_argument(
        "--small",
        action=argparse.BooleanOptionalAction,
        help="measure size=tiny instead of experiment=nest_large (default: unless the device is CUDA)",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for the start and all parts")
    parser.add_argument(
        "--batch-seconds", type=float, nargs="+", metavar="X", help="seconds of audio per batch (default: by device)"
    )
    parser.add_argument("--steps", type=int, help="steps per timed block, of which there are 3 (default: by device)")
    parser.add_argument("--streams", type=int, nargs="+", help="streams stepped together (default: by device)")
    parser.add_argument("--presets", nargs="+", help="encoder presets to compare (default: by device)")
    parser.add_argument("--workers", type=int, help="loader processes (default: by processor cores)")
    parser.add_argument("--json", type=output_file, metavar="PATH", help="write all results to this file")
    parser.add_argument("--in-process", action="store_true", help="run all parts in this process, for a debugger")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from accelerator_parts.results import PartResult
from accelerator_parts.supervision import Supervisor, run_all

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.errors import UserError


def check(args: argparse.Namespace) -> None:
    """Refuses numbers out of range.

    Raises:
        UserError: naming the option and the legal range.
    """
    for name in ("seconds", "batch_seconds", "steps", "streams", "workers"):
        value = getattr(args, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not number > 0:
                raise UserError(f"--{name.replace('_', '-')} {number:g}: give a number above 0")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}: create it first")


class Report:
    """Prints results as they come, and keeps the JSON file up to date.

    Args:
        path: JSON file; None writes none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._console = path, terminal(150)
        self._content: dict[str, Any] = {"parts": []}

    def begin(self, description: dict[str, Any]) -> None:
        """Prints device, model and date."""
        self._content = {**description, **self._content}
        self._console.print("\n".join(f"{name}: {value}" for name, value in description.items()), highlight=False)

    def add(self, result: PartResult) -> None:
        """Prints the table, the notes and the failures of a part."""
        self._content["parts"].append(asdict(result))
        if self._path:
            self._path.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
        self._console.print()
        self._console.print(result.table())
        for line in (*result.notes, *(f"FAILED: {failure}" for failure in result.failures)):
            self._console.print(line, highlight=False)
        self._console.print(f"{result.part} took {result.seconds:.0f} s", highlight=False)


def measure(argv: Sequence[str], args: argparse.Namespace, report: Report) -> list[PartResult]:
    """Runs all parts; returns their results.

    Raises:
        UserError: for errors in the arguments.
    """
    begin = time.monotonic()

    def run(one: Callable[[str, float, float | None], PartResult]) -> list[PartResult]:
        return run_all(args.parts, args.seconds - (time.monotonic() - begin), one, report.add)

    if args.in_process:
        from accelerator_parts import serving

        settings = serving.settings_of(args)
        report.begin({**serving.describe(settings.device), "model": " ".join(settings.model)})
        return run(lambda part, *request: serving.run_part(part, settings, *request))
    with Supervisor([sys.executable, __file__, "--serve", *argv]) as supervisor:
        report.begin(supervisor.description())
        return run(supervisor.run)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    check(args)
    if args.serve:
        from accelerator_parts.serving import serve

        return serve(args)
    results = measure(argv, args, Report(args.json))
    return int(any(result.failures for result in results))


if __name__ == "__main__":
    sys.exit(main())
