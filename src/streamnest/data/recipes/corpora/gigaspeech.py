"""GigaSpeech: podcasts, videos and audiobooks with one large JSON list.

Lhotse's recipe needs an extra package to read the list, which is plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from streamnest.data.recipes.files import need
from streamnest.data.recipes.options import Recipe, RecipeOptions
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.errors import UserError

SUBSETS = ("XS", "S", "M", "L", "XL")
LAYOUT = """  SOURCE/GigaSpeech.json
  SOURCE/audio/{audiobook,podcast,youtube}/P0000/POD0000000001.opus"""
# Markers that replace the text of segments without speech.
_NO_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}


def read_gigaspeech(options: RecipeOptions) -> Iterator[Piece | Dropped]:
    """Reads the segments of one subset as `train` (by default the largest), `dev` and `test`.

    The whole list is read into memory, which takes several times its size.
    """
    subset = options.subset or "XL"
    if subset not in SUBSETS:
        raise UserError(f"subset {subset!r}: choose one of {', '.join(SUBSETS)}")
    path = need(options.source / "GigaSpeech.json", "GigaSpeech", LAYOUT)
    try:
        audios = list(json.loads(path.read_text(encoding="utf-8-sig"))["audios"])
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{path}: is not the list of GigaSpeech ({type(error).__name__}: {error})") from error
    parts = {f"{{{subset}}}": "train", "{DEV}": "dev", "{TEST}": "test"}
    for audio in audios:
        try:
            yield from list(_segments(audio, options, parts))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            name = audio.get("aid") if isinstance(audio, dict) else audio
            yield Dropped(f"{path}: {name}", "broken line", f"{type(error).__name__}: {error}")


def _segments(audio: dict[str, Any], options: RecipeOptions, parts: dict[str, str]) -> Iterator[Piece | Dropped]:
    path = options.source / audio["path"]
    for row in audio["segments"]:
        part = next((parts[name] for name in row["subsets"] if name in parts), None)
        if part is None:
            continue
        start, text = float(row["begin_time"]), row["text_tn"]
        if text.strip() in _NO_SPEECH:
            yield Dropped(f"{path}: {row['sid']}", "marked as no speech", text)
            continue
        speaker = None if row.get("speaker") in (None, "N/A") else row["speaker"]
        duration = float(row["end_time"]) - start
        yield Piece(row["sid"], path, part, start, duration, speaker, text, audio.get("language"))


RECIPES = {"gigaspeech": Recipe(read_gigaspeech, LAYOUT, ("subset",))}
