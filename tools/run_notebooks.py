"""Executes notebooks and keeps their output: `python tools/run_notebooks.py [notebooks/NAME.py ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]


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
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", type=Path, help="percent-format notebooks; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks", help="folder for the executed notebooks")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for each cell")
    args = parser.parse_intermixed_args()
    for source in track(args.sources or sorted((ROOT / "notebooks").glob("*.py")), "notebooks"):
        if not source.is_file():
            sys.exit(f"{source}: no such notebook")
        try:
            print(execute(source, args.out, args.timeout))
        except CellExecutionError as error:
            sys.exit(f"{source}: {error}")


if __name__ == "__main__":
    main()
