"""What a corpus says about its audio before any file of it has been opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Processes that decode import this module, and need neither Lhotse nor torch.
if TYPE_CHECKING:
    from lhotse import SupervisionSegment
    from lhotse.augmentation import AudioTransform


class Command(str):
    """A shell command that writes audio to its standard output; a type of its own, so that no file name is ever run."""


@dataclass(frozen=True, slots=True)
class CutDetails:
    """Properties that only a Lhotse cut has.

    Attributes:
        supervisions: segments of the cut, in seconds from its start.
        transforms: applied to the recording when it is read; start and duration of the piece are those of the result.
        speed: seconds of the file for each second of the result.
        sampling_rate: hertz of the file according to the manifest.
        numbers: of the channels of the file according to the manifest.
        custom: plain values.
    """

    supervisions: tuple[SupervisionSegment, ...] = ()
    transforms: tuple[AudioTransform, ...] = ()
    speed: float = 1.0
    sampling_rate: int = 0
    numbers: tuple[int, ...] = ()
    custom: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """One utterance, or one recording that may be divided.

    Attributes:
        id: unique in its part; the id of the cut.
        path: of the file; of a command, the name of its recording.
        part: `train`, `dev`, `test`, `noise` ...; None leaves the choice to `splitting.assign_parts`.
        start: seconds into the file.
        duration: seconds; None is up to the end of the file.
        speaker: None where the corpus does not say.
        text: transcript; None where there is none.
        language: as the corpus writes it.
        divisible: a long recording that may become segments, as opposed to an utterance, noise or a room.
        channels: positions in the file; None takes all.
        details: of a Lhotse cut; they take the place of speaker, text and language.
        command: writes the audio; None for a file.
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
    channels: tuple[int, ...] | None = None
    details: CutDetails | None = None
    command: Command | None = None

    @property
    def source(self) -> str:
        """Command or path, to be measured."""
        return str(self.path) if self.command is None else self.command

    @property
    def speed(self) -> float:
        """Seconds of the file for each second of the piece."""
        return self.details.speed if self.details else 1.0


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
