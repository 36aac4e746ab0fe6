"""Compares transcripts of the same utterances: `python benchmarks/paired_errors.py FIRST.json SECOND.json ...`.

The files are those of `streamnest transcribe --manifest ... --json FILE`. Prints the error rate of each file, and its
change relative to the first file and to the one before, with 95 % intervals of a bootstrap over utterances that are the
same for all files (Bisani and Ney 2004): such intervals are narrower than those of the rates.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streamnest.console.arguments import ArgumentParser
from streamnest.console.entry_point import without_trace
from streamnest.downstream.metrics.error_rates import UNITS, RecognizedUtterance, errors
from streamnest.errors import UserError
from streamnest.frontier.intervals import Bootstrap, Estimate


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/paired_errors.py", __doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="output of streamnest transcribe --json")
    parser.add_argument("--unit", choices=UNITS, default="cer", help="characters or words")
    return parser.parse(argv)


def read(path: Path) -> dict[str, RecognizedUtterance]:
    """Reads the utterances of a file by id.

    Raises:
        UserError: if the file is not an output of `streamnest transcribe --json` with references.
    """
    try:
        records: list[dict[str, Any]] = json.loads(path.read_text())["utterances"]
        return {one["id"]: RecognizedUtterance(one["id"], one["reference"], one["text"]) for one in records}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not an output of streamnest transcribe --manifest ... --json FILE: {error}"
        ) from None


def shared(tables: Sequence[dict[str, RecognizedUtterance]]) -> list[str]:
    """Returns the ids of the utterances that all files have.

    Raises:
        UserError: if there are none, or if the references differ.
    """
    ids = sorted(set.intersection(*map(set, tables)))
    if not ids:
        raise UserError("the files have no utterance in common: transcribe the same manifest")
    if other := [name for name in ids if len({table[name].reference for table in tables}) > 1]:
        raise UserError(f"the references of {other[0]} differ between the files: transcribe the same manifest")
    return ids


def _cell(estimate: Estimate, sign: str = "") -> str:
    low, high = estimate.low, estimate.high
    return f"{100 * estimate.value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    args = parse(argv)
    tables = [read(path) for path in args.files]
    ids = shared(tables)
    counts = [errors([table[name] for name in ids], args.unit)[None] for table in tables]
    bootstrap = Bootstrap(1, len(ids))
    columns = ("file", f"{args.unit.upper()} %", "change against the first, %", "against the one before, %")
    table = Table(*columns, title=f"{len(ids)} utterances")
    for index, (path, one) in enumerate(zip(args.files, counts, strict=True)):
        changes = [_cell(bootstrap.change(one, counts[k]), "+") for k in (0, index - 1)] if index else ["", ""]
        table.add_row(path.stem, _cell(bootstrap.rate(one)), *changes)
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
