"""Shows what cut manifests hold: `streamnest inspect MANIFEST... [--picture data.png]`.

Hours, cuts, speakers, durations, energy, broken files, and how well the cuts fill batches. Manifests are read whole;
energy and broken files come from a sample of cuts that are decoded. Exit status 1: something is broken; 2: there is
nothing to inspect.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import plain, printable, terminal
from streamnest.data.inspection import QUANTILES, Inspection, inspect, plot_inspection
from streamnest.plotting import save

_BARS = 12
_WIDTH = 40
_SHOWN = 10


def tables(found: Inspection, args: argparse.Namespace) -> list[Table]:
    """Amounts, quantiles and durations."""
    return [_amounts(found, args), _quantiles(found), _histogram(found.durations)]


def _amounts(found: Inspection, args: argparse.Namespace) -> Table:
    table = Table(title="amounts", title_justify="left", show_header=False)
    report, fill = found.report, found.fill
    table.add_row("hours", f"{report.hours:.2f}")
    table.add_row("cuts", str(report.num_cuts))
    named = sum(found.speakers.values()) / max(report.seconds, 1e-9)
    table.add_row("speakers", f"{len(found.speakers)}, of {named:.0%} of the audio" if found.speakers else "not named")
    for cause, count in sorted(report.counts.items()):
        table.add_row(f"  {cause}", str(count))
    table.add_row("broken", f"{len(found.broken)} of {found.sampled} decoded")
    if fill:
        setting = f"batch_duration={args.batch_duration:g} num_buckets={args.num_buckets}"
        table.add_row("batches an epoch", f"{fill.batches} of {fill.utterances:.1f} utterances ({setting})")
        table.add_row("padding", f"{fill.padding:.1%} of a batch; {fill.used:.0%} of batch_duration is used")
    return table


def _quantiles(found: Inspection) -> Table:
    table = Table(title="quantiles", title_justify="left")
    for name in ("", *("least" if q == 0 else "most" if q == 1 else f"{q:.0%}" for q in QUANTILES)):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("seconds", *(f"{value:.2f}" for value in np.quantile(found.durations, QUANTILES)))
    if len(found.levels):
        table.add_row("energy, dBFS", *(f"{value:.1f}" for value in np.quantile(found.levels, QUANTILES)))
    return table


def _histogram(durations: np.ndarray) -> Table:
    table = Table(title="durations, by the time they make up", title_justify="left", show_header=False)
    hours, edges = np.histogram(durations, bins=_BARS, weights=durations / 3600)
    for amount, low, high in zip(hours, edges, edges[1:]):
        bar = "█" * round(_WIDTH * amount / hours.max())
        table.add_row(f"{low:.1f} to {high:.1f} s", f"{amount:.2f} h", bar)
    return table


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="together what one run would train on")
    parser.add_argument("--sample", type=int, default=200, help="cuts to decode (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--allow_commands", action="store_true", help="run commands that manifests name as audio")
    parser.add_argument("--picture", type=Path, help="draw it here")
    batches = parser.add_argument_group("batches, as in the config group data")
    batches.add_argument("--batch_duration", type=float, default=240.0, help="seconds (%(default)s)")
    batches.add_argument("--num_buckets", type=int, default=30, help="(%(default)s)")
    batches.add_argument("--max_batch_size", type=int, default=64, help="(%(default)s)")
    batches.add_argument("--max_duration", type=float, default=30.0, help="seconds (%(default)s)")
    return parser.parse_intermixed_args(words)


@without_trace
def main() -> int:
    """Command line."""
    args = parse()
    choices = {key: value for key, value in vars(args).items() if key not in ("manifests", "picture")}
    found = inspect(args.manifests, **choices)
    console = terminal(120)
    console.print(*tables(found, args))
    for name, cause in found.broken[:_SHOWN]:
        console.print(plain("broken", "red"), printable(f"{name}: {cause}"), soft_wrap=True)
    if args.picture:
        title = ", ".join(Path(name).name for name in args.manifests) + f": {found.report.hours:.2f} hours"
        print(printable(save(plot_inspection(found, title), args.picture)))
    return 1 if found.broken or found.report.bad else 0
