"""LibriHeavy: Lhotse manifests with transcripts for the audio of Libri-Light."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from streamnest.data.recipes.jsonlines import read_lines
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

LAYOUT = """  SOURCE/libriheavy_cuts_{small,medium,large,dev,test_clean,test_other,...}.jsonl.gz
  AUDIO/{small,medium,large}/SPEAKER/BOOK/CHAPTER.flac   (Libri-Light: --audio, or SOURCE/download/librilight)"""
# Prefix of every path in the manifests.
_PREFIX = "download/librilight/"
_PREPARED = "libriheavy_cuts_"


def read_libriheavy(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads `small`, `medium` and `large`, or one of them (`subset`), as `train`; other parts keep their names."""
    manifests = {
        path.name[len(_PREPARED) :].split(".")[0]: path for path in sorted(options.source.glob(f"{_PREPARED}*"))
    }
    trained = {"small", "medium", "large"}
    if options.subset:
        manifests = {name: path for name, path in manifests.items() if name == options.subset or name not in trained}
    if not trained & manifests.keys():
        missing = options.source / f"{_PREPARED}{options.subset or 'small'}.jsonl.gz"
        raise UserError(f"{missing} is missing: LibriHeavy is expected as\n{LAYOUT}")
    audio = options.audio or options.source / _PREFIX
    if not audio.is_dir():
        raise UserError(f"{audio}: no such folder: --audio must name the unpacked Libri-Light:\n{LAYOUT}")
    for name, path in manifests.items():
        yield from read_lines(path, partial(_piece, audio=audio, part="train" if name in trained else name))


def _piece(row: dict[str, Any], location: str, audio: Path, part: str) -> Piece:
    source = row["recording"]["sources"][0]["source"]
    supervision = row["supervisions"][0]
    texts = supervision.get("custom", {}).get("texts")
    return Piece(
        id=row["id"],
        path=audio / source.removeprefix(_PREFIX),
        part=part,
        start=float(row["start"]),
        duration=float(row["duration"]),
        speaker=supervision.get("speaker"),
        text=texts[0] if texts else supervision.get("text"),
        language=supervision.get("language"),
    )


RECIPES = {"libriheavy": Recipe(read_libriheavy, LAYOUT, ("subset", "audio"))}
