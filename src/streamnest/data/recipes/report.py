"""Report of a preparation: usable cuts by part, and dropped items by cause."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from streamnest.console.terminal import plain
from streamnest.data.recipes.files import replacing
from streamnest.data.recipes.piece import Dropped

_EXAMPLES = 3


@dataclass
class PartTotals:
    """Totals of one manifest."""

    cuts: int = 0
    seconds: float = 0.0
    speakers: set[str] = field(default_factory=set)

    def add(self, seconds: float, speakers: set[str]) -> None:
        """Counts one cut."""
        self.cuts, self.seconds = self.cuts + 1, self.seconds + seconds
        self.speakers |= speakers


@dataclass
class PreparationReport:
    """Usable cuts by part, and all dropped items.

    Attributes:
        corpus: name of the corpus.
        parts: totals by name of the part.
        dropped: dropped items in order.
        files: number of checked files.
        known: number of files that the journal of an earlier run has.
    """

    corpus: str
    parts: dict[str, PartTotals] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    files: int = 0
    known: int = 0

    @property
    def causes(self) -> Counter[str]:
        """Returns the number of dropped items by cause."""
        return Counter(item.cause for item in self.dropped)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain data for JSON."""
        parts = {
            name: {"cuts": part.cuts, "hours": round(part.seconds / 3600, 4), "speakers": len(part.speakers)}
            for name, part in sorted(self.parts.items())
        }
        dropped = {
            cause: {"count": count, "examples": [_text(item) for item in self._examples(cause)]}
            for cause, count in self.causes.most_common()
        }
        return {"corpus": self.corpus, "files": self.files, "parts": parts, "dropped": dropped}

    def write(self, folder: Path) -> None:
        """Writes `report.json`, and `dropped.jsonl` with one line per dropped item."""
        with replacing(folder / "report.json") as file:
            file.write(json.dumps(self.as_dict(), indent=2) + "\n")
        with replacing(folder / "dropped.jsonl") as file:
            for item in self.dropped:
                line = {"name": item.name, "cause": item.cause, "detail": item.detail}
                file.write(json.dumps(line) + "\n")

    def tables(self) -> Iterable[Table]:
        """Yields a table of cuts by part, and one of dropped items if there are any."""
        usable = Table(title="usable", title_justify="left")
        usable.add_column("part")
        for name in ("cuts", "hours", "speakers"):
            usable.add_column(name, justify="right")
        for name, part in sorted(self.parts.items()):
            usable.add_row(name, str(part.cuts), f"{part.seconds / 3600:.2f}", str(len(part.speakers) or "unknown"))
        yield usable
        if self.dropped:
            dropped = Table(title="dropped", title_justify="left")
            dropped.add_column("cause")
            dropped.add_column("count", justify="right")
            dropped.add_column("examples", overflow="fold")
            for cause, count in self.causes.most_common():
                dropped.add_row(
                    plain(cause), str(count), plain("\n".join(_text(item) for item in self._examples(cause)))
                )
            yield dropped

    def _examples(self, cause: str) -> list[Dropped]:
        return [item for item in self.dropped if item.cause == cause][:_EXAMPLES]


def _text(item: Dropped) -> str:
    text = f"{item.name} ({item.detail})" if item.detail else item.name
    # Bytes that are not UTF-8 cannot be printed, and control characters must not reach a terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
