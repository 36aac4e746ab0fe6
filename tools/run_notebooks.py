"""Executes notebooks and saves them with their output: `python tools/run_notebooks.py [notebooks/NAME.py ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python tools/run_notebooks.py", __doc__)
    parser.add_argument("sources", nargs="*", type=Path, metavar="NOTEBOOK", help="percent-format files (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks", help="output folder (default: notebooks)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds per cell")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import sys

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.progress import track


def execute(source: Path, out: Path, timeout: int) -> Path:
    """Runs a percent-format notebook in the repository root; returns the `.ipynb` it wrote into `out`."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(ROOT)}}).execute()
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{source.stem}.ipynb"
    nbformat.write(notebook, target)
    return target


def main() -> None:
    """Executes the notebooks and prints the paths of the results."""
    args = parse()
    for source in track(args.sources or sorted((ROOT / "notebooks").glob("*.py")), "notebooks"):
        if not source.is_file():
            sys.exit(f"{source}: no such notebook")
        try:
            print(execute(source, args.out, args.timeout))
        except CellExecutionError as error:
            sys.exit(f"{source}: {error}")


if __name__ == "__main__":
    main()
