"""Writes the cut manifests of a corpus: `streamnest prepare CORPUS --source DIR --out OUT`.

Each file is decoded once. Usable audio goes to OUT/cuts_train.jsonl.gz, cuts_dev.jsonl.gz and so on, unusable files to
OUT/dropped.jsonl with the cause, and totals to OUT/report.json. The same command continues after an interruption:
files that were checked are not checked again. `streamnest prepare CORPUS --layout` lists the files a corpus needs.
--download downloads and unpacks the corpus first, if Lhotse has a downloader for it; a download continues as well.

Exit status 2: a user error, or no usable audio.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.data.recipes import arguments


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    return arguments.parser(__doc__)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return arguments.parse(__doc__, argv)
