"""JSON-lines manifests of NeMo and other toolkits, with `audio_filepath` and optional fields."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from streamnest.data.recipes.jsonlines import read_lines
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE is a JSON-lines file, or a folder of such files named after their parts: train.jsonl, dev.json, ...
  a line: {"audio_filepath": "a.wav", "duration": 2.5, "offset": 0.0, "text": "...", "speaker": "..."}
  only audio_filepath is required; paths are relative to --audio if given, else to the list"""
_NAMES = ("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz")


def read_manifest(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads each line as an utterance; one without duration and text is a recording that may be segmented."""
    if options.source.is_dir():
        files = sorted(path for pattern in _NAMES for path in options.source.glob(pattern))
    else:
        files = [options.source]
    if not files:
        raise UserError(f"{options.source} contains no list:\n{LAYOUT}")
    for path in files:
        part = options.part or (path.name.split(".")[0] if options.source.is_dir() else None)
        audio = options.audio or path.parent
        yield from read_lines(path, partial(_piece, audio=audio, part=part))


def _piece(row: dict[str, Any], location: str, audio: Path, part: str | None) -> Piece:
    name = row["audio_filepath"]
    duration = _known(row, "duration")
    start = float(_known(row, "offset") or 0.0)
    speaker, text, language = (
        _known(row, "speaker"),
        _known(row, "text"),
        _known(row, "lang") or _known(row, "language"),
    )
    return Piece(
        id=str(_known(row, "id") or f"{_short(Path(name))}-{location.rpartition(':')[2]}"),
        path=audio / name,
        part=part,
        start=start,
        duration=None if duration is None else float(duration),
        speaker=None if speaker is None else str(speaker),
        text=None if text is None else str(text),
        language=None if language is None else str(language),
        divisible=duration is None and not start and not text,
    )


def _short(path: Path) -> str:
    """Returns a path without suffix, and without folders if it is absolute, as part of an id."""
    return path.stem if path.is_absolute() else path.with_suffix("").as_posix()


def _known(row: dict[str, Any], key: str) -> Any:
    """Returns a string or a number; None if the key is missing."""
    value = row.get(key)
    if isinstance(value, (dict, list, bool)):
        raise TypeError(f"{key} is a {type(value).__name__}: it must be a string or a number")
    return value


RECIPES = {"manifest": Recipe(read_manifest, LAYOUT, ("audio", "part"))}
