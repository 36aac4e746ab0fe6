"""Executes notebooks and saves them with their output: `python tools/run_notebooks.py [notebooks/NAME.py ...]`.

With `--html FOLDER`, each becomes a self-contained HTML page instead, for the documentation.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python tools/run_notebooks.py", __doc__)
    parser.add_argument("sources", nargs="*", type=Path, metavar="NOTEBOOK", help="percent-format files (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks", help="output folder (default: notebooks)")
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="write HTML pages to this folder instead")
    parser.add_argument("--timeout", type=int, default=600, help="seconds per cell")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import sys

import jupytext
import nbformat
from markdown_it import MarkdownIt
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.progress import track

_STYLE = """body { font: 16px/1.55 system-ui, sans-serif; color: #1f2933; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
pre { background: #f5f7fa; padding: .7rem 1rem; overflow-x: auto; font-size: .82rem } img { max-width: 100% }
table { border-collapse: collapse; font-size: .88rem; display: block; overflow-x: auto }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e4e7eb; text-align: left }
pre.output { background: none; color: #52606d }"""


def execute(source: Path, timeout: int) -> nbformat.NotebookNode:
    """Runs a percent-format notebook in the repository root."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(ROOT)}})
    # Local sockets instead of TCP, about which the kernel prints a warning.
    client.create_kernel_manager().transport = "ipc"
    client.execute()
    return notebook


def as_html(notebook: nbformat.NotebookNode) -> str:
    """Formats an executed notebook as an HTML page without scripts: text, code, printed output, tables and plots."""
    markdown = MarkdownIt("commonmark").enable("table")
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(markdown.render(cell.source))
            continue
        parts.append(f"<details><summary>code</summary><pre>{html.escape(cell.source)}</pre></details>")
        parts += [_output(output, markdown) for output in cell.outputs]
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = html.escape(first.splitlines()[0].lstrip("# "))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _output(output: nbformat.NotebookNode, markdown: MarkdownIt) -> str:
    if output.output_type == "stream":
        return f'<pre class="output">{html.escape(output.text)}</pre>' if output.name == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="plot" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/markdown" in data:
        return str(markdown.render(data["text/markdown"]))
    plain = data.get("text/plain", "").strip()
    # Progress bars leave empty outputs.
    return str(data.get("text/html") or f"<pre>{html.escape(plain)}</pre>") if plain else ""


def main() -> None:
    """Executes the notebooks and prints the paths of the results."""
    args = parse()
    for source in track(args.sources or sorted((ROOT / "notebooks").glob("*.py")), "notebooks"):
        if not source.is_file():
            sys.exit(f"{source}: no such notebook")
        try:
            notebook = execute(source, args.timeout)
        except CellExecutionError as error:
            sys.exit(f"{source}: {error}")
        folder, suffix = (args.html, "html") if args.html else (args.out, "ipynb")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{source.stem}.{suffix}"
        target.write_text(as_html(notebook) if args.html else nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
