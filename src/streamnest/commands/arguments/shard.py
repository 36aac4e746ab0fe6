"""Writes cut manifests as Lhotse Shar: `streamnest shard MANIFEST ... --out FOLDER_OR_URL`.

The same command continues after an interruption. Cuts keep the order of the manifests, so that training on the shards
uses the same batches as training on the files. --index FOLDER adds the index that training needs to existing Lhotse
Shar. docs/SHARDS.md has details.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import COUNT, POSITIVE, SHARE, THREADS

FORMATS = ("flac", "opus", "wav")


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest shard", __doc__)
    made.add_argument("manifest", nargs="*", metavar="MANIFEST", help="cut manifests, .jsonl or .jsonl.gz, in order")
    made.add_argument("--out", metavar="FOLDER_OR_URL", help="folder, or URL such as s3://bucket/name")
    made.add_argument("--index", type=Path, metavar="FOLDER", help="existing Lhotse Shar at 16 kHz to index")
    made.add_argument(
        "--format",
        choices=FORMATS,
        default="flac",
        help="audio format; opus is lossy, slow to write and a fifth of the size",
    )
    made.add_argument("--shard-size", type=COUNT, default=1000, help="cuts per shard")
    made.add_argument("--jobs", type=THREADS, default=1, help="number of processes")
    limits = made.add_argument_group("limits")
    limits.add_argument("--min-duration", type=POSITIVE, default=0.1, help="drop shorter cuts (seconds)")
    limits.add_argument("--max-duration", type=POSITIVE, default=3600.0, help="split or skip longer cuts (seconds)")
    limits.add_argument("--on-long", choices=("split", "skip"), default="split", help="what to do with longer cuts")
    limits.add_argument("--max-bad-share", type=SHARE, default=0.1, help="share of manifest lines that may be unusable")
    limits.add_argument("--allow-commands", action="store_true", help="run shell commands that manifests give as audio")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line; either manifests and --out are given, or --index."""
    made = parser()
    args = made.parse(argv)
    if bool(args.index) == bool(args.manifest) or bool(args.manifest) != bool(args.out):
        made.error("give manifests and --out, or --index alone")
    return args
