"""Measurements of audio files, kept on disk between runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamnest.data.recipes.measuring import Measurement
from streamnest.data.recipes.piece import Command
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.errors import UserError
from streamnest.files.atomic_write import open_own

# Version of the measurements; entries of other versions are ignored.
_VERSION = 2


class Journal:
    """Measurements on disk, one JSON line per file; an entry is valid for one size and modification time of the file.

    Args:
        path: journal file; created with the first entry.
        limits: segment limits; entries made with other limits are ignored.
    """

    def __init__(self, path: Path, limits: SegmentLimits | None) -> None:
        self.path, self.limits = path, limits
        self._torn = False
        self._known: dict[str, tuple[list[Any] | None, Measurement]] = {}
        try:
            text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): choose another --out") from None
        self._torn = bool(text) and not text.endswith("\n")
        # Not `splitlines`, which splits at characters that file names may hold. Damaged bytes lose only their line.
        for line in text.split("\n"):
            self._recall(line)

    def look_up(self, path: str) -> Measurement | None:
        """Returns the measurements of a file, or None if it is unknown or has changed."""
        key, measurement = self._known.get(path, (None, None))
        return measurement if key is not None and key == self._key(path) else None

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Stores measurements on disk. Missing files, which may appear later, and commands are not stored."""
        lines, self._torn = ["\n"] if self._torn else [], False
        for measurement in measurements:
            key = self._key(measurement.path)
            if measurement.cause != "missing" and key is not None:
                self._known[measurement.path] = key, measurement
                lines.append(json.dumps({"key": key, **asdict(measurement)}, ensure_ascii=False) + "\n")
        try:
            with os.fdopen(open_own(self.path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to ({error.strerror}): choose another --out") from None

    def _key(self, path: str) -> list[Any] | None:
        if isinstance(path, Command):
            return None
        try:
            status = Path(path).stat()
        except (OSError, ValueError):
            return None
        limits = [self.limits.shortest, self.limits.longest] if self.limits else []
        return [_VERSION, status.st_size, status.st_mtime_ns, *limits]

    def _recall(self, line: str) -> None:
        try:
            entry = json.loads(line)
            key = entry.pop("key")
            self._known[entry["path"]] = key, Measurement(**entry)
        # A killed run can leave half a line; that file is checked again.
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
