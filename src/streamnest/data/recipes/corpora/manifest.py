"""Lists as speech toolkits write them: one JSON object a line, with `audio_filepath` and more."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from streamnest.data.recipes.jsonlines import read_lines
from streamnest.data.recipes.options import Options, Recipe
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE is a file of JSON lines, or a folder of them named after their parts: train.jsonl, dev.json ...
  a line: {"audio_filepath": "a.wav", "duration": 2.5, "offset": 0.0, "text": "...", "speaker": "..."}
  all but audio_filepath may be missing; paths are relative to --audio, else to the list"""
_NAMES = ("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz")


def read_manifest(options: Options) -> Iterator[Piece | Dropped]:
    """Each line is an utterance; one without duration and text is a recording that may become segments."""
    if options.source.is_dir():
        files = sorted(path for pattern in _NAMES for path in options.source.glob(pattern))
    else:
        files = [options.source]
    if not files:
        raise UserError(f"{options.source} holds no list:\n{LAYOUT}")
    for path in files:
        part = options.part or (path.name.split(".")[0] if options.source.is_dir() else None)
        audio = options.audio or path.parent
        yield from read_lines(path, partial(_piece, audio=audio, part=part))


def _piece(row: dict[str, Any], place: str, audio: Path, part: str | None) -> Piece:
    name = row["audio_filepath"]
    duration = _known(row, "duration")
    start = float(_known(row, "offset") or 0.0)
    speaker, text, language = (
        _known(row, "speaker"),
        _known(row, "text"),
        _known(row, "lang") or _known(row, "language"),
    )
    return Piece(
        id=str(_known(row, "id") or f"{Path(name).with_suffix('').as_posix()}-{place.rpartition(':')[2]}"),
        path=audio / name,
        part=part,
        start=start,
        duration=None if duration is None else float(duration),
        speaker=None if speaker is None else str(speaker),
        text=None if text is None else str(text),
        language=None if language is None else str(language),
        divisible=duration is None and not start and not text,
    )


def _known(row: dict[str, Any], key: str) -> Any:
    """A text or a number; None where there is none."""
    value = row.get(key)
    if isinstance(value, (dict, list, bool)):
        raise TypeError(f"{key} is a {type(value).__name__}: need a text or a number")
    return value


RECIPES = {"manifest": Recipe(read_manifest, LAYOUT, ("audio", "part"))}
