"""The command line of `streamnest prepare`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamnest.console.entry_point import without_trace
from streamnest.console.overrides import override
from streamnest.console.terminal import printable, terminal
from streamnest.data.recipes.options import Options
from streamnest.data.recipes.preparation import prepare, require_usable
from streamnest.data.recipes.registry import RECIPES
from streamnest.data.recipes.report import Report
from streamnest.data.recipes.segmentation import Limits
from streamnest.errors import UserError


def parse(description: str | None, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=RECIPES, metavar="CORPUS", help=", ".join(RECIPES))
    parser.add_argument("--source", type=Path, help="folder of the unpacked corpus, or a list (manifest, lhotse)")
    parser.add_argument("--out", type=Path, help="output folder of the manifests")
    parser.add_argument("--layout", action="store_true", help="show the files that this corpus needs, and exit")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="decoding processes (%(default)s)")
    parser.add_argument(
        "--relative", action="store_true", help="write paths relative to --out, so that both can be moved"
    )
    splits = parser.add_argument_group("parts and segments")
    splits.add_argument(
        "--dev_share",
        type=float,
        default=0.02,
        help="share of speakers in dev, if the corpus has none (%(default)s)",
    )
    splits.add_argument("--min_seconds", type=float, default=2.0, help="shortest segment (%(default)s)")
    splits.add_argument(
        "--max_seconds",
        type=float,
        default=30.0,
        help="longer recordings are segmented; 0: never (%(default)s)",
    )
    chosen = parser.add_argument_group("options of some corpora")
    chosen.add_argument("--language", help=f"only this language ({_users('language')})")
    chosen.add_argument("--subset", help=f"only this subset, or this one in addition ({_users('subset')})")
    chosen.add_argument("--audio", type=Path, help=f"folder of the audio, if not below --source ({_users('audio')})")
    chosen.add_argument("--part", help=f"part that takes everything: train, noise, ... ({_users('part')})")
    chosen.add_argument(
        "--speaker_level",
        type=int,
        default=0,
        help="folder level that names speakers (folder)",
    )
    chosen.add_argument(
        "--allow_commands",
        action="store_true",
        help=f"run the shell commands that a list names instead of files ({_users('allow_commands')})",
    )
    args = parser.parse_args(words)
    if not args.layout and not (args.source and args.out):
        parser.error("--source and --out are required")
    return args


def _users(option: str) -> str:
    return ", ".join(name for name, recipe in RECIPES.items() if option in recipe.uses)


def run(args: argparse.Namespace, console: Console) -> Report:
    """Prepares a corpus and shows a progress bar."""
    options = Options(
        args.source, args.part, args.audio, args.language, args.subset, args.speaker_level, args.allow_commands
    )
    _refuse_unused(args)
    limits = Limits(args.min_seconds, args.max_seconds) if args.max_seconds else None
    columns = (TextColumn("checking files"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        return prepare(
            args.corpus,
            options,
            args.out,
            dev_share=args.dev_share,
            limits=limits,
            jobs=args.jobs,
            relative=args.relative,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _refuse_unused(args: argparse.Namespace) -> None:
    for name in ("part", "audio", "language", "subset", "speaker_level", "allow_commands"):
        if getattr(args, name) and name not in RECIPES[args.corpus].uses:
            raise UserError(f"--{name} is not an option of {args.corpus}: leave it out")


def next_command(out: Path) -> str:
    """Returns the command that trains on prepared manifests."""
    parts = {"train": "cuts_train.jsonl.gz", "val": "cuts_dev.jsonl.gz"}
    manifests = [override(f"data.{part}_manifest", out / name) for part, name in parts.items()]
    return shlex.join(["python", "train.py", "data=manifest", *manifests])


@without_trace
def main(description: str | None = None) -> int:
    """Runs the command line and returns the exit status."""
    args = parse(description)
    if args.layout:
        print(RECIPES[args.corpus].layout)
        return 0
    console = terminal(120)
    try:
        report = run(args, terminal(stderr=True))
        require_usable(report, args.source, args.out)
    except KeyboardInterrupt:
        print("stopped: the same command continues with the files that are not checked yet", file=sys.stderr)
        return 130
    print(f"{report.corpus}: {report.files} files, {report.known} of them checked in an earlier run")
    for table in report.tables():
        console.print(table)
    print(f"written to {printable(args.out)}")
    if {"train", "dev"} <= set(report.parts):
        print(f"train on it: {printable(next_command(args.out))}")
    return 0
