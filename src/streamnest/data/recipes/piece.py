"""What a corpus says about its audio before any file of it has been opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Piece:
    """One utterance, or one recording that may be divided.

    Attributes:
        id: unique in its part; the id of the cut.
        path: of the file.
        part: `train`, `dev`, `test`, `noise` ...; None leaves the choice to `splitting.assign_parts`.
        start: seconds into the file.
        duration: seconds; None is up to the end of the file.
        speaker: None where the corpus does not say.
        text: transcript; None where there is none.
        language: as the corpus writes it.
        divisible: a long recording that may become segments, as opposed to an utterance, noise or a room.
    """

    id: str
    path: Path
    part: str | None = None
    start: float = 0.0
    duration: float | None = None
    speaker: str | None = None
    text: str | None = None
    language: str | None = None
    divisible: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something a corpus holds or names that does not become a cut.

    Attributes:
        name: a file, or a file and a line.
        cause: a few words, the same for all of a kind.
        detail: what is peculiar to this one.
    """

    name: str
    cause: str
    detail: str = ""
