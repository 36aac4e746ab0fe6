"""Prints and plots the content of cut manifests, or describes checkpoints: `streamnest inspect`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from streamnest.commands.arguments.inspect import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import plain, printable, terminal
from streamnest.data.inspection import QUANTILES, Inspection, inspect
from streamnest.data.inspection_plots import plot_inspection
from streamnest.errors import UserError
from streamnest.plotting import save

_BARS = 12
_WIDTH = 40
_SHOWN = 10


def tables(found: Inspection, args: argparse.Namespace) -> list[Table]:
    """Returns the tables of amounts, quantiles and durations."""
    return [_amounts(found, args), _quantiles(found), _histogram(found.durations)]


def _amounts(found: Inspection, args: argparse.Namespace) -> Table:
    table = Table(title="amounts", title_justify="left", show_header=False)
    report, fill = found.report, found.fill
    table.add_row("hours", f"{report.hours:.2f}")
    table.add_row("cuts", str(report.num_cuts))
    named = sum(found.speakers.values()) / max(report.seconds, 1e-9)
    table.add_row("speakers", f"{len(found.speakers)}, for {named:.0%} of the audio" if found.speakers else "not given")
    for cause, count in sorted(report.counts.items()):
        table.add_row(f"  {cause}", str(count))
    table.add_row("broken", f"{len(found.broken)} of {found.sampled} decoded")
    if fill:
        setting = f"batch_duration={args.batch_duration:g} num_buckets={args.num_buckets}"
        table.add_row("batches per epoch", f"{fill.batches} of {fill.utterances:.1f} utterances ({setting})")
        table.add_row("padding", f"{fill.padding:.1%} of a batch; {fill.used:.0%} of batch_duration is used")
    return table


def _quantiles(found: Inspection) -> Table:
    table = Table(title="quantiles", title_justify="left")
    for name in ("", *("min" if q == 0 else "max" if q == 1 else f"{q:.0%}" for q in QUANTILES)):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("seconds", *(f"{value:.2f}" for value in np.quantile(found.durations, QUANTILES)))
    if len(found.levels):
        table.add_row("energy, dBFS", *(f"{value:.1f}" for value in np.quantile(found.levels, QUANTILES)))
    return table


def _histogram(durations: np.ndarray) -> Table:
    table = Table(title="hours by duration of the cut", title_justify="left", show_header=False)
    hours, edges = np.histogram(durations, bins=_BARS, weights=durations / 3600)
    for amount, low, high in zip(hours, edges, edges[1:]):
        bar = "█" * round(_WIDTH * amount / hours.max())
        table.add_row(f"{low:.1f} to {high:.1f} s", f"{amount:.2f} h", bar)
    return table


def _is_model(name: str) -> bool:
    """True for a checkpoint, the folder of a run and a model folder."""
    return name.endswith(".ckpt") or any((Path(name) / part).exists() for part in ("checkpoints", "config.json"))


def _describe(checkpoints: list[str], names: list[str]) -> int:
    """Prints a table for each checkpoint."""
    if others := [name for name in names if name not in checkpoints]:
        raise UserError(f"{others[0]} is not a checkpoint: give either manifests, or checkpoints and folders of runs")
    from streamnest.reporting.checkpoint_table import checkpoint_table  # loads every model class

    terminal(120).print(*(checkpoint_table(Path(name)) for name in checkpoints))
    return 0


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables, and returns 1 if some audio is broken."""
    args = parse(argv)
    checkpoints = [name for name in args.manifests if _is_model(name)]
    if checkpoints:
        return _describe(checkpoints, args.manifests)
    choices = {key: value for key, value in vars(args).items() if key not in ("manifests", "plot")}
    found = inspect(args.manifests, **choices)
    console = terminal(120)
    console.print(*tables(found, args))
    for name, cause in found.broken[:_SHOWN]:
        console.print(plain("broken", "red"), printable(f"{name}: {cause}"), soft_wrap=True)
    if args.plot:
        title = ", ".join(Path(name).name for name in args.manifests) + f": {found.report.hours:.2f} hours"
        print(printable(save(plot_inspection(found, title), args.plot)))
    return 1 if found.broken or found.report.bad else 0
