"""Measures frame accuracy by position: `python benchmarks/positions.py CHECKPOINT [CHECKPOINT ...]`.

Positions are seconds since the start of a stream, frames after the last visible one, and the frame of the chunk.
Checkpoints of task=pretrain: accuracy of predicted codes at a live edge, with the masks of validation, and without
masks. All checkpoints: accuracy of a linear phone probe, if there are phone labels. The default manifest is the
built-in corpus.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, POSITIVE, THREADS, output_file, output_plot


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/positions.py", __doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints or folders of runs")
    parser.add_argument("--manifest", metavar="PATH", help="JSON lines as for `streamnest probe` (default: built-in)")
    parser.add_argument("--phones", metavar="PATH", help="JSON lines: id, phones [[begin, end, label], ...] in seconds")
    parser.add_argument("--context", help="context of a dynamic encoder (default: its default context)")
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="teacher of models that predict the codes of one")
    parser.add_argument("--most", type=COUNT, default=200, help="largest number of utterances with phones, and without")
    parser.add_argument("--masked-ms", type=POSITIVE, default=480.0, help="audio after the live edge that is predicted")
    parser.add_argument("--step-ms", type=POSITIVE, default=240.0, help="distance between live edges of an utterance")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    parser.add_argument("--json", type=output_file, help="write the results to this file")
    parser.add_argument("--plot", type=output_plot, help="plot the results (.png or .svg)")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table

from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.target_teacher import attach_stored_teacher
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.files.atomic_write import write_json
from streamnest.locations import sample_corpus
from streamnest.plotting import OKABE_ITO, heading, plain_axes, save
from streamnest.pretraining import Pretraining
from streamnest.probing.by_position import PositionFigure, measure_positions
from streamnest.probing.encoded import choose
from streamnest.probing.phone_labels import read_utterances

Results = dict[str, list[PositionFigure]]
# Positions with fewer frames are in the table, but not in the plot, whose scale they would determine.
FEWEST_FRAMES = 100


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints, writes and plots the figures of each checkpoint."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    sample = sample_corpus()
    manifest, phones = args.manifest or str(sample / "manifest.jsonl"), args.phones
    if phones is None and args.manifest is None:
        phones = sample / "phones.jsonl"
    every = read_utterances(manifest, phones)
    used = [one for one in every if one.phones or one.split != "train"]
    utterances = choose(used or every, args.most, seed=0)
    results: Results = {}
    for path in args.checkpoints:
        model = load_model(path, args.context)
        if args.teacher and isinstance(model, Pretraining):
            attach_stored_teacher(model, args.teacher)
        results[path] = measure_positions(model, utterances, args.masked_ms, args.step_ms)
        terminal(120).print(table(path, results[path]))
    if args.json:
        write_json(args.json, {path: [asdict(one) for one in lines] for path, lines in results.items()})
    if args.plot:
        terminal(120).print(f"plot: {save(plot(results), args.plot)}")
    return 0


def table(path: str, lines: Sequence[PositionFigure]) -> Table:
    """Returns the figures of a checkpoint as a table for the terminal."""
    shown = Table(title=path, title_justify="left")
    for name in ("condition", "position", "frames", "accuracy", "95 % interval", "nats"):
        shown.add_column(name, justify="right")
    for one in lines:
        interval, nats = f"{one.low:.1%} to {one.high:.1%}", "" if one.nats is None else f"{one.nats:.3f}"
        where = f"{one.axis}: {one.position}"
        shown.add_row(one.condition, where, str(one.frames), f"{one.accuracy:.1%}", interval, nats)
    return shown


def plot(results: Results) -> Figure:
    """Plots accuracy by position: a row for each condition, a column for each axis, a line for each checkpoint."""
    every = [one for lines in results.values() for one in lines]
    conditions, axes_names = (list(dict.fromkeys(values)) for values in zip(*((f.condition, f.axis) for f in every)))
    size = (4.2 * len(axes_names), 2.6 * len(conditions) + 1)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    heading(figure, "Frame accuracy by position", "Bars: 95 % intervals over utterances")
    grid = figure.subplots(len(conditions), len(axes_names), squeeze=False)
    for row, condition in enumerate(conditions):
        for column, name in enumerate(axes_names):
            axes = grid[row, column]
            for color, (path, lines) in zip(OKABE_ITO, results.items()):
                _line(axes, [f for f in lines if (f.condition, f.axis) == (condition, name)], color, path)
            axes.set_xlabel(name)
            axes.set_ylabel(f"accuracy, {condition}" if column == 0 else "")
            plain_axes(axes)
            axes.set_visible(axes.has_data())
    grid[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _line(axes: Any, points: Sequence[PositionFigure], color: str, path: str) -> None:
    if points := [one for one in points if one.frames >= FEWEST_FRAMES]:
        values = np.array([(one.accuracy, one.accuracy - one.low, one.high - one.accuracy) for one in points]).T
        label = "/".join(Path(path).parts[-2:])
        where = [one.position for one in points]
        axes.errorbar(where, values[0], values[1:].clip(0), color=color, marker="o", capsize=2, label=label)


if __name__ == "__main__":
    raise SystemExit(main())
