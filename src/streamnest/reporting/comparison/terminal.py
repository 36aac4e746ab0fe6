"""Tables of a comparison for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.table import Table as RichTable

from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.tables import compare, split


def terminal_tables(heading: str, runs: Sequence[Run], metric: str | None, width: int) -> Iterator[RichTable]:
    """Yields the table of comparable runs, in parts that fit a terminal.

    Args:
        heading: title of the first part.
        runs: runs of one group, see `comparable`.
        metric: metric to compare by; None takes the one that the task monitors.
        width: columns of the terminal.
    """
    content = compare(runs, metric or runs[0].monitor)
    title = f"{heading}{', best in bold' if content.best is not None else ''}"
    if content.common:
        title += "\n" + ", ".join(f"{name} {text}" for name, text in content.common)
    for number, columns in enumerate(split(content, width)):
        table = RichTable(title=None if number else title, title_justify="left")
        for column, space in columns.items():
            side: Literal["left", "right"] = "right" if column else "left"
            table.add_column(content.header[column], justify=side, overflow="fold", width=space)
        for row, cells in enumerate(content.rows):
            table.add_row(*(cells[column] for column in columns), style="bold" if row == content.best else "")
        yield table
