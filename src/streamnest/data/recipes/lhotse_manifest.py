"""Lhotse's own manifests of cuts or recordings, checked and brought into our parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.cut import MixedCut, PaddingCut
from lhotse.serialization import deserialize_item

from streamnest.data.recipes.jsonlines import read_lines
from streamnest.data.recipes.options import Options, Recipe
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE is a file of cuts or recordings (.jsonl, .jsonl.gz), or a folder of files *cuts_PART.jsonl[.gz]
  paths in it are relative to --audio, else to the file"""


def read_lhotse(options: Options) -> Iterator[Piece | Dropped]:
    """Cuts keep id, place, and the speaker, text and language of their first supervision; recordings are whole."""
    files = sorted(options.source.glob("*cuts_*.jsonl*")) if options.source.is_dir() else [options.source]
    if not files:
        raise UserError(f"{options.source} holds no cuts:\n{LAYOUT}")
    for path in files:
        part = options.part or (_part(path) if options.source.is_dir() else None)
        audio = options.audio or path.parent
        yield from read_lines(path, partial(_piece, audio=audio, part=part))


def _part(path: Path) -> str:
    return path.name.split(".")[0].rpartition("cuts_")[2]


def _piece(row: dict[str, Any], place: str, audio: Path, part: str | None) -> Piece | Dropped:
    item = deserialize_item(row)
    if isinstance(item, (MixedCut, PaddingCut)):
        return Dropped(place, "mixed or padded cut", item.id)
    recording = item if isinstance(item, Recording) else getattr(item, "recording", None)
    if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file":
        return Dropped(place, "not one file of audio", str(getattr(item, "id", "")))
    path = audio / recording.sources[0].source
    if isinstance(item, Recording):
        return Piece(item.id, path, part, divisible=True)
    said = item.supervisions[0] if item.supervisions else None
    speaker, text, language = (said.speaker, said.text, said.language) if said else (None, None, None)
    whole = not item.start and abs(item.duration - recording.duration) < 1e-3
    return Piece(item.id, path, part, item.start, None if whole else item.duration, speaker, text, language)


RECIPES = {"lhotse": Recipe(read_lhotse, LAYOUT, ("audio", "part"))}
