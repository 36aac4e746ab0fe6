"""Libri-Light: long recordings of one reader each, without transcripts.

Lhotse's recipe makes a supervision of each stretch that the corpus marks as voiced; pretraining needs segments of
useful length, which `segmentation` finds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from streamnest.data.recipes.files import walk
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Piece
from streamnest.errors import UserError

SUBSETS = ("small", "medium", "large", "duplicate")
LAYOUT = """  SOURCE/{small,medium,large}/SPEAKER/BOOK/CHAPTER.flac
  SOURCE/{small,medium,large}/SPEAKER/BOOK/CHAPTER.json"""


def read_librilight(options: RecipeOptions) -> Iterator[Piece]:
    """Reads all existing subsets, or one; the speaker comes from the JSON file beside the audio, or from the folder."""
    folders = [options.source / name for name in ([options.subset] if options.subset else SUBSETS)]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        wanted = options.subset or "small, medium or large"
        raise UserError(f"{options.source} contains no {wanted}: Libri-Light is expected as\n{LAYOUT}")
    for folder in folders:
        for path in walk(folder, {".flac"}):
            name = path.relative_to(options.source).with_suffix("").as_posix()
            yield Piece(name, path, speaker=_speaker(path, folder), language="English", divisible=True)


def _speaker(path: Path, folder: Path) -> str | None:
    try:
        return str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8-sig"))["speaker"])
    # The folder is named after the speaker, so a lost or damaged JSON file does not matter.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        parts = path.relative_to(folder).parts
        return parts[0] if len(parts) > 1 else None


RECIPES = {"librilight": Recipe(read_librilight, LAYOUT, ("subset",))}
