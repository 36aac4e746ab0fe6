"""Descriptions of utterances and recordings, as a corpus lists them, before any audio is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Decoding processes import this module and need neither Lhotse nor torch.
if TYPE_CHECKING:
    from lhotse import SupervisionSegment
    from lhotse.augmentation import AudioTransform


class Command(str):
    """Shell command that writes audio to standard output; a separate type, so that a file name is never run."""


@dataclass(frozen=True, slots=True)
class CutDetails:
    """Properties that only a Lhotse cut has.

    Attributes:
        supervisions: supervision segments, in seconds from the start of the cut.
        transforms: transforms applied when the recording is read; start and duration of the piece refer to the result.
        speed: seconds of the file per second of the result.
        sampling_rate: sampling rate of the file in Hz according to the manifest.
        numbers: channel numbers of the file according to the manifest.
        custom: plain custom fields.
    """

    supervisions: tuple[SupervisionSegment, ...] = ()
    transforms: tuple[AudioTransform, ...] = ()
    speed: float = 1.0
    sampling_rate: int = 0
    numbers: tuple[int, ...] = ()
    custom: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """One utterance, or one recording that may be segmented.

    Attributes:
        id: cut id, unique in its part.
        path: path of the file; for a command, the name of its recording.
        part: `train`, `dev`, `test`, `noise`, ...; None lets `splitting.assign_parts` choose.
        start: offset into the file in seconds.
        duration: duration in seconds; None extends to the end of the file.
        speaker: speaker name; None if unknown.
        text: transcript; None if there is none.
        language: language, as the corpus writes it.
        divisible: True for a long recording that may be segmented; False for an utterance, noise or a room response.
        channels: channel positions in the file; None takes all.
        details: properties of a Lhotse cut, which replace speaker, text and language.
        command: command that writes the audio; None for a file.
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
        """Returns the command or path to measure."""
        return str(self.path) if self.command is None else self.command

    @property
    def speed(self) -> float:
        """Returns the seconds of the file per second of the piece."""
        return self.details.speed if self.details else 1.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """Item of a corpus that does not become a cut.

    Attributes:
        name: file, or file and line.
        cause: short reason, the same for all items of a kind.
        detail: details of this item.
    """

    name: str
    cause: str
    detail: str = ""
