"""Options of a corpus recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from streamnest.data.recipes.piece import Dropped, Piece


@dataclass(frozen=True)
class RecipeOptions:
    """Options for a recipe, which ignores those that it does not use.

    Attributes:
        source: folder or file of the corpus.
        part: part that takes the whole corpus, such as `noise`.
        audio: folder of the audio, if it is not below `source`.
        language: one language of a multilingual corpus; None is all.
        subset: one subset of a corpus that is published in several sizes; None is all that exist.
        speaker_level: level of folders below `source` that is named after speakers; 0 is none.
        allow_commands: run the shell commands that a list names instead of files.
        parts: published parts of a corpus, such as `train-clean-100`; empty for all that exist.
    """

    source: Path
    part: str | None = None
    audio: Path | None = None
    language: str | None = None
    subset: str | None = None
    speaker_level: int = 0
    allow_commands: bool = False
    parts: tuple[str, ...] = ()


Read = Callable[[RecipeOptions], Iterable[Piece | Dropped]]


@dataclass(frozen=True)
class Recipe:
    """Reader of one corpus.

    Attributes:
        read: function from options to pieces; it opens lists but no audio, and raises UserError for a wrong layout.
        layout: required files, one per line.
        uses: names of the options that it uses besides `source`.
    """

    read: Read
    layout: str
    uses: tuple[str, ...] = ()
