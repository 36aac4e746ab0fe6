"""What became of each part of a checkpoint on its way from one toolkit to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from streamnest.files.plain_data import printable

# "new": not in the source, made here. "differs": there, but what uses it computes something else.
OUTCOMES = ("kept", "translated", "new", "differs", "left out")
_STYLES = {"new": "yellow", "differs": "bold yellow", "left out": "yellow"}


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint: its name, one of `OUTCOMES`, and how or why."""

    name: str
    outcome: str
    reason: str


@dataclass
class Ledger:
    """What was carried over, in the order in which it was looked at.

    Attributes:
        source: of what was read.
        parts: one for each thing that a user could ask after.
    """

    source: Path
    parts: list[Part] = field(default_factory=list)

    def add(self, outcome: str, name: str, reason: str) -> None:
        """Notes a part, once."""
        part = Part(name, outcome, reason)
        if part not in self.parts:
            self.parts.append(part)

    def outcomes(self, name: str) -> list[str]:
        """What became of the parts of a name."""
        return [part.outcome for part in self.parts if part.name == name]

    def table(self) -> Table:
        """A row for each part, what was kept first."""
        # As text: names of a file may look like markup.
        table = Table(title=Text(f"from {printable(str(self.source))}"), title_justify="left")
        for column in ("", "part", "how, or why"):
            table.add_column(column, overflow="fold")
        for part in sorted(self.parts, key=lambda part: OUTCOMES.index(part.outcome)):
            name, reason = Text(printable(part.name)), Text(printable(part.reason))
            table.add_row(part.outcome, name, reason, style=_STYLES.get(part.outcome))
        return table
