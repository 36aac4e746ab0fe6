"""Report of what happened to each part of a checkpoint that was transferred, imported or exported."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from streamnest.files.plain_data import printable

# "new": not in the source, initialized here. "differs": transferred, but the target computes something else with it.
OUTCOMES = ("kept", "reshaped", "translated", "new", "differs", "left out")
_STYLES = {"new": "yellow", "differs": "bold yellow", "left out": "yellow"}


@dataclass(frozen=True)
class TransferredPart:
    """A tensor, setting or file of a checkpoint: its name, one of `OUTCOMES`, and the reason."""

    name: str
    outcome: str
    reason: str


@dataclass
class TransferReport:
    """Outcome and reason for each part of a checkpoint.

    Attributes:
        source: path of the checkpoint or archive that was read.
        parts: parts of the source and of the target, in the order in which they were processed.
        differences: architecture settings that differ: name, value in the source, value in the target.
    """

    source: Path
    parts: list[TransferredPart] = field(default_factory=list)
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)

    def add(self, outcome: str, name: str, reason: str) -> None:
        """Adds a part, unless the same line is present already."""
        part = TransferredPart(name, outcome, reason)
        if part not in self.parts:
            self.parts.append(part)

    def outcomes(self, name: str) -> list[str]:
        """Outcomes of all parts with a given name."""
        return [part.outcome for part in self.parts if part.name == name]

    @property
    def counts(self) -> Counter[str]:
        """Number of parts of each outcome that occurs, in the order of `OUTCOMES`."""
        total = Counter(part.outcome for part in self.parts)
        return Counter({outcome: total[outcome] for outcome in OUTCOMES if total[outcome]})

    def grouped(self, outcome: str) -> dict[str, Counter[str]]:
        """Counts part names by reason for one outcome; layer numbers are replaced by `*`."""
        groups: dict[str, Counter[str]] = {}
        for part in self.parts:
            if part.outcome == outcome:
                name = re.sub(r"\.\d+\.", ".*.", part.name)
                groups.setdefault(part.reason, Counter())[name] += 1
        return groups

    def table(self) -> Table:
        """Returns a table with a row for each part, sorted by outcome."""
        # Names from a file may contain markup, so that cells are plain text.
        table = Table(title=Text(f"from {printable(str(self.source))}"), title_justify="left")
        for column in ("outcome", "part", "details"):
            table.add_column(column, overflow="fold")
        for part in sorted(self.parts, key=lambda part: OUTCOMES.index(part.outcome)):
            name, reason = Text(printable(part.name)), Text(printable(part.reason))
            table.add_row(part.outcome, name, reason, style=_STYLES.get(part.outcome))
        return table
