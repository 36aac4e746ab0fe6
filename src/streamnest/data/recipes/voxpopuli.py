"""VoxPopuli: speeches of the European Parliament, with or without transcripts.

Three forms are published and read here, whichever are there: `transcribed_data` (utterances with parts),
`unlabelled_data` (cut recordings), and `raw_audios` (whole sessions, hours long). Lhotse's recipe reads sessions for
which it downloads a list of utterances, and reads neither of the others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import need, walk
from streamnest.data.recipes.options import Options, Recipe
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/unlabelled_data/LANGUAGE/YEAR/*.ogg
  SOURCE/transcribed_data/LANGUAGE/asr_{train,dev,test}.tsv and YEAR/EVENT-ID.ogg
  SOURCE/raw_audios/LANGUAGE/YEAR/*.ogg   (read only where there is no unlabelled_data)"""


def read_voxpopuli(options: Options) -> Iterator[Piece | Dropped]:
    """Transcribed utterances keep their parts; all else is `train`, or is dealt out where nothing is transcribed.

    Sessions of which utterances are in dev or test are left out: the same speech must not be in train.
    """
    transcribed = _languages(options, "transcribed_data")
    sessions = _languages(options, "unlabelled_data") or _languages(options, "raw_audios")
    if not transcribed and not sessions:
        language = f" of language {options.language}" if options.language else ""
        raise UserError(f"{options.source} holds no audio{language}: VoxPopuli is expected as\n{LAYOUT}")
    held_out = set()
    for folder in transcribed:
        for part in ("train", "dev", "test"):
            for item in _transcribed(need(folder / f"asr_{part}.tsv", "VoxPopuli", LAYOUT), part):
                if isinstance(item, Piece) and part != "train":
                    held_out.add(_session(item.id))
                yield item
    for folder in sessions:
        spoken = None if folder.name == "original" else folder.name
        for path in walk(folder, {".ogg"}):
            if _session(path.stem) in held_out:
                yield Dropped(str(path), "session of dev or test")
            else:
                yield Piece(path.stem, path, "train" if transcribed else None, language=spoken, divisible=True)


def _session(name: str) -> str:
    """The part of a name that all cuts of a session have in common, as in `20131007-0900-PLENARY-10`."""
    found = re.match(r"\d{8}-\d{4}-[A-Z]+(-\d+)?(?![\d:])", name)
    return found.group() if found else name


def _languages(options: Options, form: str) -> list[Path]:
    folders = sorted(path for path in (options.source / form).glob("*/") if path.is_dir())
    return [path for path in folders if options.language in (None, path.name)]


def _transcribed(path: Path, part: str) -> Iterator[Piece | Dropped]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            name = row.get("id")
            if not name:
                yield Dropped(f"{path}:{number}", "broken line", "no id")
                continue
            speaker = row.get("speaker_id")
            audio = path.parent / name[:4] / f"{name}.ogg"
            text = row.get("normalized_text")
            # The corpus writes None for a speaker it does not know.
            known = None if speaker in ("", "None") else speaker
            yield Piece(name, audio, part, 0.0, None, known, text, path.parent.name)


RECIPES = {"voxpopuli": Recipe(read_voxpopuli, LAYOUT, ("language",))}
