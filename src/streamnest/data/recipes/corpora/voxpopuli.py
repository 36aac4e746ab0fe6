"""VoxPopuli: speeches of the European Parliament, with or without transcripts.

Three published forms are read if they exist: `transcribed_data` (utterances with parts, cut by the scripts of the
corpus), `unlabelled_data` (cut recordings), and `raw_audios` (whole sessions, hours long). For the `asr` subset, the
published list `asr_LANGUAGE.tsv.gz` with the sessions in `raw_audios/original` works too: utterances are then spans of
sessions, as in Lhotse's recipe, which does not read the other forms.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import need, reading, walk
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/unlabelled_data/LANGUAGE/YEAR/*.ogg
  SOURCE/transcribed_data/LANGUAGE/asr_{train,dev,test}.tsv and YEAR/EVENT-ID.ogg, or
  SOURCE/transcribed_data/LANGUAGE/asr_LANGUAGE.tsv.gz and SOURCE/raw_audios/original/YEAR/*_original.ogg
  SOURCE/raw_audios/LANGUAGE/YEAR/*.ogg   (read only without unlabelled_data)"""

PARTS = ("train", "dev", "test")


def read_voxpopuli(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads transcribed utterances with their parts, and the rest as `train`, or without a part if none is transcribed.

    Sessions with utterances in dev or test are dropped, so that the same speech is not in train.
    """
    transcribed = _languages(options, "transcribed_data")
    sessions = _languages(options, "unlabelled_data") or _languages(options, "raw_audios")
    if not transcribed and not sessions:
        language = f" of language {options.language}" if options.language else ""
        raise UserError(f"{options.source} contains no audio{language}: VoxPopuli is expected as\n{LAYOUT}")
    held_out, taken = set(), set()
    for item in (item for folder in transcribed for item in _utterances(folder, options.source)):
        if isinstance(item, Piece):
            taken.add(item.path)
            held_out |= {_session(item.id)} if item.part != "train" else set()
        yield item
    for folder in sessions:
        spoken = None if folder.name == "original" else folder.name
        for path in walk(folder, {".ogg"}):
            if path in taken:
                continue
            if _session(path.stem) in held_out:
                yield Dropped(str(path), "session with dev or test utterances")
            else:
                yield Piece(path.stem, path, "train" if transcribed else None, language=spoken, divisible=True)


def _session(name: str) -> str:
    """Returns the name of the session in a name, such as `20131007-0900-PLENARY-10`."""
    match = re.match(r"\d{8}-\d{4}-[A-Z]+(-\d+)?(?![\d:])", name)
    return match.group() if match else name


def _languages(options: RecipeOptions, form: str) -> list[Path]:
    folders = sorted(path for path in (options.source / form).glob("*/") if path.is_dir())
    return [path for path in folders if options.language in (None, path.name)]


def _utterances(folder: Path, source: Path) -> Iterator[Piece | Dropped]:
    """Yields the utterances of a language: from single files, or from whole sessions if there are none."""
    published = folder / f"asr_{folder.name}.tsv.gz"
    if published.is_file() and not (folder / "asr_train.tsv").is_file():
        yield from _spans(published, source / "raw_audios/original", folder.name)
        return
    for part in PARTS:
        yield from _transcribed(need(folder / f"asr_{part}.tsv", "VoxPopuli", LAYOUT), part)


def _spans(path: Path, sessions: Path, language: str) -> Iterator[Piece | Dropped]:
    """Yields the rows of a published list: spans of sessions, including their pauses."""
    with reading(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="|"), 2):
            if row.get("split") not in PARTS:
                yield Dropped(f"{path}:{number}", "unknown part", "neither train, dev nor test")
                continue
            try:
                session, start, end = str(row["session_id"]), float(row["start_time"]), float(row["end_time"])
                if not (session and 0 <= start < end < math.inf):
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                yield Dropped(f"{path}:{number}", "broken line", "no session, start or end")
                continue
            audio = sessions / session[:4] / f"{session}_original.ogg"
            name, text = f"{session}-{row.get('id_') or number}", row.get("normed_text") or row.get("original_text")
            yield Piece(name, audio, row["split"], start, end - start, _speaker(row), text, language)


def _speaker(row: dict[str, str]) -> str | None:
    """Returns the speaker; the corpus writes None for an unknown one."""
    return None if row.get("speaker_id") in ("", "None") else row.get("speaker_id")


def _transcribed(path: Path, part: str) -> Iterator[Piece | Dropped]:
    with reading(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            name = row.get("id")
            if not name:
                yield Dropped(f"{path}:{number}", "broken line", "no id")
                continue
            audio, text = path.parent / name[:4] / f"{name}.ogg", row.get("normalized_text")
            yield Piece(name, audio, part, 0.0, None, _speaker(row), text, path.parent.name)


RECIPES = {"voxpopuli": Recipe(read_voxpopuli, LAYOUT, ("language",))}
