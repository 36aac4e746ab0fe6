"""The command line of `streamnest prepare`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from streamnest.console.entry_point import without_trace
from streamnest.console.overrides import override
from streamnest.console.terminal import printable, terminal
from streamnest.data.recipes.arguments import USES, parse
from streamnest.data.recipes.download import download
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.preparation import prepare, require_usable
from streamnest.data.recipes.registry import RECIPES
from streamnest.data.recipes.report import PreparationReport
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.errors import UserError
from streamnest.locations import train_command


def run(args: argparse.Namespace, console: Console) -> PreparationReport:
    """Prepares a corpus and shows a progress bar."""
    options = RecipeOptions(
        args.source,
        args.part,
        args.audio,
        args.language,
        args.subset,
        args.speaker_level,
        args.allow_commands,
        tuple(args.parts or ()),
    )
    limits = SegmentLimits(args.min_seconds, args.max_seconds) if args.max_seconds else None
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
    for name in {name for names in USES.values() for name in names}:
        if getattr(args, name) and name not in USES[args.corpus]:
            raise UserError(f"--{name.replace('_', '-')} is not an option of {args.corpus}: leave it out")


def run_download(args: argparse.Namespace, console: Console) -> Path:
    """Downloads a corpus, shows a progress bar for each archive, and returns the folder of the corpus."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(printable(name))
            bar.update(tasks[name], completed=done, total=total)

        folder = args.to or args.out / "download"
        return download(args.corpus, folder, tuple(args.parts or ()), args.base_url, show)


def next_command(out: Path) -> str:
    """Returns the command that trains on prepared manifests."""
    parts = {"train": "cuts_train.jsonl.gz", "val": "cuts_dev.jsonl.gz"}
    manifests = [override(f"data.{part}_manifest", out / name) for part, name in parts.items()]
    return f"{train_command()} {shlex.join(['data=manifest', *manifests])}"


@without_trace
def main(description: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    args = parse(description, argv)
    if args.layout:
        print(RECIPES[args.corpus].layout)
        return 0
    _refuse_unused(args)
    console = terminal(120)
    try:
        if args.download:
            args.source = run_download(args, terminal(stderr=True))
            print(f"{args.corpus} is in {printable(args.source)}")
        if not args.out:
            return 0
        report = run(args, terminal(stderr=True))
        require_usable(report, args.source, args.out)
    except KeyboardInterrupt:
        print("stopped: the same command continues, and repeats no file that is complete", file=sys.stderr)
        return 130
    print(f"{report.corpus}: {report.files} files, {report.known} of them checked in an earlier run")
    for table in report.tables():
        console.print(table)
    print(f"written to {printable(args.out)}")
    if {"train", "dev"} <= set(report.parts):
        print(f"train on it: {printable(next_command(args.out))}")
    return 0
