"""Writes cut manifests as Lhotse Shar: `streamnest shard`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from lhotse.cut import Cut
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from streamnest.commands.arguments.shard import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.data.manifest import LoadReport, load_cuts
from streamnest.data.shards.index import ShardIndex
from streamnest.data.shards.indexing import index_folder
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards


def load(args: argparse.Namespace) -> tuple[list[Cut], LoadReport]:
    """Reads the cuts of all manifests."""
    limits = {"min_duration": args.min_duration, "max_duration": args.max_duration, "on_long": args.on_long}
    trust = {"max_bad_share": args.max_bad_share, "allow_commands": args.allow_commands}
    cuts, report = [], LoadReport()
    for manifest in args.manifest:
        loaded, part = load_cuts(manifest, **trust, **limits)
        cuts += loaded
        report += part
    return cuts, report


def shard(args: argparse.Namespace) -> tuple[ShardIndex, Counter[str]]:
    """Writes the shards, or the index of existing ones, with a progress bar."""
    if args.index:
        bar = lambda numbers: track(numbers, "shards", console=terminal(stderr=True))
        return index_folder(args.index, track=bar), Counter()
    cuts, report = load(args)
    print(f"read: {printable(report)}")
    plan = make_plan(cuts, args.format, args.shard_size)
    columns = [TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=terminal(stderr=True)) as progress:
        task = progress.add_task("shards", total=plan.num_shards)
        advance = lambda count: progress.advance(task, count)
        return write_shards(cuts, args.out, plan, args.jobs, advance)


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Writes shards or an index and prints the totals."""
    args = parse(argv)
    try:
        index, dropped = shard(args)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    size, place = index.size.sum() / 1e6, printable(args.out or args.index)
    print(f"written: {len(index)} cuts, {index.duration.sum() / 3600:.2f} h, {size:.1f} MB of audio in {place}")
    for cause, count in sorted(dropped.items()):
        print(f"dropped: {count} {printable(cause)}")
    return 0
