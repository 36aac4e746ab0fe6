"""Writes cut manifests to Lhotse Shar: `streamnest shard MANIFEST... --out FOLDER_OR_URL`.

Killed or stopped, the same command goes on where it was. The order of the cuts is that of the manifests, so that
training on the shards gives the batches that training on the files gives. `--index FOLDER` makes Lhotse Shar of other
origin readable instead. See docs/SHARDS.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from lhotse.cut import Cut
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.data.manifest import LoadReport, load_cuts
from streamnest.data.shards.adopting import adopt
from streamnest.data.shards.index import FORMATS, ShardIndex
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards


def load(args: argparse.Namespace) -> tuple[list[Cut], LoadReport]:
    """The cuts of all manifests."""
    limits = {"min_duration": args.min_duration, "max_duration": args.max_duration, "on_long": args.on_long}
    trust = {"max_bad_share": args.max_bad_share, "allow_commands": args.allow_commands}
    cuts, report = [], LoadReport()
    for manifest in args.manifest:
        loaded, part = load_cuts(manifest, **trust, **limits)
        cuts += loaded
        report += part
    return cuts, report


def shard(args: argparse.Namespace) -> tuple[ShardIndex, Counter[str]]:
    """Writes the shards, or the index of those that are there, under a progress bar."""
    if args.index:
        bar = lambda numbers: track(numbers, "shards", console=terminal(stderr=True))
        return adopt(args.index, track=bar), Counter()
    cuts, report = load(args)
    print(f"read: {printable(report)}")
    plan = make_plan(cuts, args.format, args.shard_size)
    columns = [TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=terminal(stderr=True)) as progress:
        task = progress.add_task("shards", total=plan.num_shards)
        advance = lambda count: progress.advance(task, count)
        return write_shards(cuts, args.out, plan, args.jobs, advance)


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="*", help="cut manifests, .jsonl or .jsonl.gz, in this order")
    parser.add_argument("--out", help="a folder, or a URL such as s3://bucket/name")
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="of Lhotse Shar of 16 kHz, to write its index to")
    parser.add_argument(
        "--format", choices=FORMATS, default="flac", help="opus is a fifth of the size, slow to write, and lossy"
    )
    parser.add_argument("--shard_size", type=int, default=1000, help="cuts a shard")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--min_duration", type=float, default=0.1, help="seconds; shorter cuts are dropped")
    parser.add_argument("--max_duration", type=float, default=3600, help="seconds; longer cuts are split or skipped")
    parser.add_argument("--on_long", choices=("split", "skip"), default="split")
    parser.add_argument("--max_bad_share", type=float, default=0.1, help="share of manifest lines that may be unusable")
    parser.add_argument("--allow_commands", action="store_true", help="run commands that manifests name as audio")
    args = parser.parse_intermixed_args()
    if bool(args.index) == bool(args.manifest) or bool(args.manifest) != bool(args.out):
        parser.error("give manifests and --out, or --index alone")
    try:
        index, dropped = shard(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    size, place = index.size.sum() / 1e6, printable(args.out or args.index)
    print(f"written: {len(index)} cuts, {index.duration.sum() / 3600:.2f} h, {size:.1f} MB of audio in {place}")
    for cause, count in sorted(dropped.items()):
        print(f"dropped: {count} {printable(cause)}")
    return 0
