"""Results of the parts, which processes exchange as JSON, and their tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from rich.table import Table

Cell: TypeAlias = str | float | int | bool | None
Row: TypeAlias = dict[str, Cell]


@dataclass
class PartResult:
    """Result of one part; a part adds rows while it runs, so that an error does not lose them.

    Attributes:
        part: name of the part.
        title: title of its table.
        rows: cells by column; rows may have different columns.
        notes: sentences below the table.
        failures: one message for each failure; empty if the part passed.
        trace: trace of an error.
        user_error: message of an error in the arguments.
        seconds: time that the part took.
        usable: False if the process cannot use the device any more.
    """

    part: str
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    trace: str = ""
    user_error: str | None = None
    seconds: float = 0.0
    usable: bool = True

    @property
    def audio_rate(self) -> float | None:
        """Largest rate of training among the rows, in hours of audio per hour of one device."""
        rates = [value for row in self.rows if isinstance(value := row.get(AUDIO_RATE), float)]
        return max(rates, default=None)

    def table(self) -> Table:
        """Returns the table of the rows."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = Table(title=f"{self.part}: {self.title}", title_justify="left")
        for name in columns:
            texts = all(isinstance(row.get(name), str | None) for row in self.rows)
            table.add_column(name, justify="left" if texts else "right")
        for row in self.rows:
            table.add_row(*(cell_text(row.get(name)) for name in columns))
        return table


AUDIO_RATE = "audio h per device-h"


def cell_text(value: Cell) -> str:
    """Formats a cell: three significant digits, whole numbers from 100, and nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
