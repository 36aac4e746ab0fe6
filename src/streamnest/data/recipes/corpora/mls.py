"""Multilingual LibriSpeech.

Lhotse's recipe searches linearly for every utterance and stops at a missing file; both matter with millions of
utterances, and the lists are simple.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import need, reading
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/mls_LANGUAGE[_opus]/{train,dev,test}/transcripts.txt
  SOURCE/mls_LANGUAGE[_opus]/{train,dev,test}/audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac (or .opus)"""


def read_mls(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads all languages below the source, or one of them, in FLAC or Opus."""
    language = options.language or "*"
    folders = [*options.source.glob(f"mls_{language}/"), *options.source.glob(f"mls_{language}_opus/")]
    folders = sorted({folder for folder in folders if "_lm_" not in folder.name})
    if not folders:
        raise UserError(f"{options.source} contains no mls_{language}: MLS is expected as\n{LAYOUT}")
    for folder in folders:
        for part in ("train", "dev", "test"):
            yield from _read(need(folder / part / "transcripts.txt", "MLS", LAYOUT), folder, part)


def _read(path: Path, folder: Path, part: str) -> Iterator[Piece | Dropped]:
    suffix = ".opus" if folder.name.endswith("_opus") else ".flac"
    with reading(path) as lines:
        for number, line in enumerate(lines, 1):
            name, _, text = line.rstrip("\n").partition("\t")
            if name.count("_") != 2:
                yield Dropped(f"{path}:{number}", "broken line", line.strip())
                continue
            speaker, book, _ = name.split("_")
            audio = path.parent / "audio" / speaker / book / f"{name}{suffix}"
            yield Piece(name, audio, part, 0.0, None, speaker, text, folder.name.split("_")[1])


RECIPES = {"mls": Recipe(read_mls, LAYOUT, ("language",))}
