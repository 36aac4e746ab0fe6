"""What was found in files, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamnest.data.recipes.measuring import Facts
from streamnest.data.recipes.segmentation import Limits

# Of what is found in a file; entries of other versions do not count.
_VERSION = 1


class Journal:
    """Facts on disk, one JSON line each; an entry holds for one size and time of change of its file.

    Args:
        path: of the file; made when the first entry comes.
        limits: of segments; entries found with other limits do not count.
    """

    def __init__(self, path: Path, limits: Limits | None) -> None:
        self.path, self.limits = path, limits
        self._torn = False
        self._known: dict[str, tuple[list[Any] | None, Facts]] = {}
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
            self._torn = not line.endswith("\n")
            self._recall(line)

    def look_up(self, path: str) -> Facts | None:
        """What is known about a file as it is now."""
        key, facts = self._known.get(path, (None, None))
        return facts if key is not None and key == self._key(path) else None

    def add(self, found: Iterable[Facts]) -> None:
        """Remembers facts, on disk before it returns. Missing files are not remembered: they may come."""
        lines, self._torn = ["\n"] if self._torn else [], False
        for facts in found:
            if facts.cause != "missing":
                key = self._key(facts.path)
                self._known[facts.path] = key, facts
                lines.append(json.dumps({"key": key, **asdict(facts)}, ensure_ascii=False) + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _key(self, path: str) -> list[Any] | None:
        try:
            status = Path(path).stat()
        except OSError:
            return None
        limits = [self.limits.shortest, self.limits.longest] if self.limits else []
        return [_VERSION, status.st_size, status.st_mtime_ns, *limits]

    def _recall(self, line: str) -> None:
        try:
            entry = json.loads(line)
            key = entry.pop("key")
            self._known[entry["path"]] = key, Facts(**entry)
        # A killed run leaves half a line; the file is simply checked again.
        except (ValueError, TypeError, KeyError, AttributeError):
            return
