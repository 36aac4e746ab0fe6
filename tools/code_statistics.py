"""Prints sizes of files and functions, and shares of docstrings and return types: `python tools/code_statistics.py`."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Returns all functions of a module, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def percentiles(values: Iterable[int]) -> str:
    """Formats median, 90th percentile and maximum."""
    numbers = list(values) or [0]
    return " / ".join(f"{value:.0f}" for value in (*np.percentile(numbers, [50, 90]), max(numbers)))


def share(flags: Iterable[bool]) -> str:
    """Formats the share of True in percent."""
    flags = list(flags)
    return f"{sum(flags) / max(1, len(flags)):.0%}"


def row(folder: Path) -> str:
    """Returns the row of the table for all Python files below a folder."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
    found = [function for text in texts for function in functions(ast.parse(text))]
    public = [function for function in found if not function.name.startswith("_")]
    cells = (
        str(len(texts)),
        str(sum(text.count("\n") for text in texts)),
        percentiles(text.count("\n") for text in texts),
        percentiles((function.end_lineno or 0) - function.lineno + 1 for function in found),
        share(bool(ast.get_docstring(function)) for function in found),
        share(bool(ast.get_docstring(function)) for function in public),
        share(function.returns is not None or function.name == "__init__" for function in found),
    )
    return f"| `{folder.relative_to(ROOT)}` | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "src/streamnest", ROOT / "tests"])
    print("| folder | files | lines | lines per file | lines per function | docstrings | public | return types |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(row(folder.resolve()) for folder in parser.parse_args().folders))


if __name__ == "__main__":
    main()
