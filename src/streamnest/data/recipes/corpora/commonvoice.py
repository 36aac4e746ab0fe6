"""Common Voice: tables with one clip per line.

Lhotse's recipe supports 24 of its languages and stops at the first clip that does not decode; the tables are simple.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import need, reading
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/LANGUAGE/{train,dev,test}.tsv
  SOURCE/LANGUAGE/clips/common_voice_LANGUAGE_NUMBER.mp3
  (SOURCE is the folder cv-corpus-..., or the folder of one language)"""
_TABLES = ("dev", "test", "train")


def read_commonvoice(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads the official train, dev and test parts of all languages below the source, or of one.

    `subset=validated` or `subset=other` adds those clips to `train`, except those of speakers in dev and test.
    """
    for folder in _languages(options):
        need(folder / "clips", "Common Voice", LAYOUT)
        seen: set[str] = set()
        held_out: set[str] = set()
        for table in _TABLES:
            yield from _read(need(folder / f"{table}.tsv", "Common Voice", LAYOUT), table, seen, held_out)
        if options.subset:
            yield from _read(need(folder / f"{options.subset}.tsv", "Common Voice", LAYOUT), None, seen, held_out)


def _languages(options: RecipeOptions) -> list[Path]:
    if (options.source / "train.tsv").is_file():
        return [options.source]
    pattern = f"{options.language or '*'}/train.tsv"
    folders = [path.parent for path in sorted(options.source.glob(pattern))]
    if not folders:
        raise UserError(f"{options.source / pattern} is missing: Common Voice is expected as\n{LAYOUT}")
    return folders


def _read(path: Path, part: str | None, seen: set[str], held_out: set[str]) -> Iterator[Piece | Dropped]:
    """Yields the clips of a table; a table without a part adds new clips of other speakers to `train`."""
    with reading(path, newline="") as file:
        # Sentences may contain single quotation marks.
        for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
            clip, speaker = row.get("path"), row.get("client_id")
            if not clip or not speaker:
                yield Dropped(f"{path}:{number}", "broken line", "no path or no client_id")
            elif part or (clip not in seen and speaker not in held_out):
                seen.add(clip)
                yield _piece(path.parent, clip, part or "train", speaker, row)
            if part in ("dev", "test") and speaker:
                held_out.add(speaker)


def _piece(folder: Path, clip: str, part: str, speaker: str, row: dict[str, str]) -> Piece:
    language = row.get("locale") or folder.name
    return Piece(Path(clip).stem, folder / "clips" / clip, part, 0.0, None, speaker, row.get("sentence"), language)


RECIPES = {"commonvoice": Recipe(read_commonvoice, LAYOUT, ("language", "subset"))}
