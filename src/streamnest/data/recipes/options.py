"""What the command line may say about a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from streamnest.data.recipes.piece import Dropped, Piece


@dataclass(frozen=True)
class Options:
    """Choices for a recipe; each reads those that concern it.

    Attributes:
        source: the folder (or file) of the corpus.
        part: all of it goes here, as in `noise`.
        audio: folder of the audio where it is not below `source`.
        language: one language of a corpus that has several; None is all.
        subset: of a corpus that comes in several sizes; None is all that is there.
        speaker_level: of a folder tree, which level below `source` is named after speakers; 0 is none.
        allow_commands: run the shell commands that a list names in the place of files.
    """

    source: Path
    part: str | None = None
    audio: Path | None = None
    language: str | None = None
    subset: str | None = None
    speaker_level: int = 0
    allow_commands: bool = False


Read = Callable[[Options], Iterable[Piece | Dropped]]


@dataclass(frozen=True)
class Recipe:
    """How one corpus is read.

    Attributes:
        read: from options to pieces; opens lists, no audio. Raises UserError where the layout is not the corpus's.
        layout: the files it needs, one a line.
        uses: options beyond `source`.
    """

    read: Read
    layout: str
    uses: tuple[str, ...] = ()
