"""Kaldi data folders.

Lhotse's own import opens every file while it reads the lists, and stops at the first damaged one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from streamnest.console.redaction import redact
from streamnest.data.recipes.files import reading
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Command, Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/wav.scp, and optionally segments, utt2spk, text
  (or a folder of such folders, each named after its part: train, dev, ...)
  paths in wav.scp are relative to --audio if given, else to the working folder, as in Kaldi"""
# Kaldi separates fields by these characters only; other white space is part of a text.
_BLANK = " \t\r\f\v"


def read_kaldi(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads the utterances of `segments`, or each recording of `wav.scp` as an utterance if there is no `segments`."""
    if (options.source / "wav.scp").is_file():
        folders = [(options.part, options.source)]
    else:
        folders = [(path.parent.name, path.parent) for path in sorted(options.source.glob("*/wav.scp"))]
    if not folders:
        raise UserError(f"{options.source / 'wav.scp'} is missing: a Kaldi folder is expected as\n{LAYOUT}")
    for part, folder in folders:
        yield from _read(folder, part, options)


def _read(folder: Path, part: str | None, options: RecipeOptions) -> Iterator[Piece | Dropped]:
    listed, segments = _Table(folder / "wav.scp"), _Table(folder / "segments")
    speakers, texts = _Table(folder / "utt2spk"), _Table(folder / "text")
    recordings: dict[str, Piece | Dropped] = {
        name: _recording(name, value, listed.location(name), part, options) for name, value in listed.rows.items()
    }
    known = recordings
    if segments.exists:
        yield from (piece for piece in recordings.values() if isinstance(piece, Dropped))
        known = {
            name: _segment(name, value, segments.location(name), recordings) for name, value in segments.rows.items()
        }
    for name, piece in known.items():
        yield (
            piece
            if isinstance(piece, Dropped)
            else replace(
                piece,
                speaker=speakers.rows.get(name) or None,
                text=texts.rows.get(name) or None,
                divisible=not segments.exists and not texts.rows.get(name),
            )
        )
    for table in (listed, segments, speakers, texts):
        yield from table.dropped
    for table in (speakers, texts):
        yield from (
            Dropped(table.location(name), "unknown utterance", name) for name in table.rows if name not in known
        )


def _recording(name: str, value: str, location: str, part: str | None, options: RecipeOptions) -> Piece | Dropped:
    if not value:
        return Dropped(location, "broken line", f"{name}: no path")
    if not value.endswith("|"):
        return Piece(name, (options.audio or Path.cwd()) / value, part)
    if not options.allow_commands:
        # A command in a data file runs only if the user allows it.
        return Dropped(location, "a command, not a file", f"{name}: {redact(value)}")
    return Piece(name, Path(name), part, command=Command(value))


def _segment(name: str, value: str, location: str, recordings: dict[str, Piece | Dropped]) -> Piece | Dropped:
    """Reads a line of `segments`: recording, start, end (-1: end of the recording), optional channel."""
    fields = _fields(value)
    try:
        recording, start, end = fields[0], float(fields[1]), float(fields[2])
        channels = (int(fields[3]),) if len(fields) > 3 else None
        if len(fields) > 4 or min(channels or (0,)) < 0:
            raise ValueError
    except (ValueError, IndexError):
        return Dropped(location, "broken line", f"{name}: {value}"[:300])
    piece = recordings.get(recording)
    if piece is None:
        return Dropped(location, "recording is not listed", f"{name}: {recording}")
    if isinstance(piece, Dropped):
        return Dropped(location, piece.cause, f"{name}: {recording}")
    return replace(piece, id=name, start=start, duration=None if end == -1 else end - start, channels=channels)


@dataclass
class _Table:
    """Maps the first field of each line to the rest; the first of several equal keys counts; empty without a file."""

    path: Path
    rows: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    exists: bool = False

    def __post_init__(self) -> None:
        self.exists = self.path.is_file()
        if not self.exists:
            return
        # Not `splitlines`, which splits texts at characters that are not line ends for Kaldi.
        with reading(self.path) as lines:
            for number, line in enumerate(lines, 1):
                self._add(number, line.strip(_BLANK + "\n"))

    def location(self, name: str) -> str:
        """Returns file and line of a key."""
        return f"{self.path}:{self.lines[name]}"

    def _add(self, number: int, line: str) -> None:
        name, value = [*_fields(line, 1), ""][:2]
        if name in self.rows:
            self.dropped.append(Dropped(f"{self.path}:{number}", "id occurs twice", f"{name}: {value}"[:300]))
        elif name:
            self.rows[name], self.lines[name] = value, number


def _fields(line: str, most: int = 0) -> list[str]:
    return re.split(f"[{_BLANK}]+", line, maxsplit=most)


RECIPES = {"kaldi": Recipe(read_kaldi, LAYOUT, ("audio", "part", "allow_commands"))}
