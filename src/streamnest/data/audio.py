"""Reading the audio of a cut, and telling bad audio from good."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from lhotse.audio import DurationMismatchError
from lhotse.cut import Cut
from numpy.typing import NDArray

from streamnest.redaction import redact

SAMPLING_RATE = 16000
Samples = NDArray[np.float32]
Channel = int | Literal["mix"]


class BadAudioError(Exception):
    """Audio that cannot be trained on.

    Attributes:
        cause: one of `missing`, `not as long as declared`, `unreadable`, `no such channel`, `empty`, `not finite`,
            `constant`, and those of `StoreError`.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause} ({detail})" if detail else cause)
        self.cause = cause


def load_mono(cut: Cut, channel: Channel = "mix") -> Samples:
    """Audio of a cut at the cut's sampling rate, `(N,)` float32. Peaks beyond 1 are left as they are.

    Args:
        cut: with a recording; resampling and the like happen as the cut says.
        channel: of audio with several: their mean ("mix") or one of them, from 0. Mono audio is taken as it is.

    Raises:
        BadAudioError: for anything that is not finite, varying audio of the declared length.
    """
    audio = _read(cut)
    if len(audio) > 1:
        if channel != "mix" and channel >= len(audio):
            raise BadAudioError("no such channel", f"{channel} of {len(audio)}")
        audio = audio.mean(0) if channel == "mix" else audio[channel]
    samples = np.ascontiguousarray(audio.reshape(-1), np.float32)
    _check(samples)
    return samples


def load_channels(cut: Cut) -> Samples:
    """Audio of a cut with all its channels, `(C, N)` float32.

    Raises:
        BadAudioError: see `load_mono`.
    """
    audio = np.ascontiguousarray(_read(cut), np.float32)
    _check(audio)
    return audio


def source_name(cut: Cut) -> str:
    """The file a cut is read from, for messages; its id where there is none."""
    if not isinstance(cut, Cut):
        return cut.source_name
    recording = getattr(cut, "recording", None)
    return redact(str(recording.sources[0].source)) if recording and recording.sources else cut.id


def _read(cut: Cut) -> NDArray[np.float32]:
    try:
        audio = cut.load_audio()
    except BadAudioError:
        raise
    # Decoders raise whatever they like on damaged files, and no file may end a run of weeks.
    except Exception as error:
        raise BadAudioError(_cause(cut, error), type(error).__name__) from error
    if audio is None:
        raise BadAudioError("unreadable", "the cut has no audio")
    return np.atleast_2d(audio)


def _cause(cut: Cut, error: Exception) -> str:
    """Lhotse gives one kind of exception to most of what can go wrong."""
    if isinstance(error, DurationMismatchError) or "declared samples" in str(error):
        return "not as long as declared"
    if isinstance(error, FileNotFoundError):
        return "missing"
    recording = getattr(cut, "recording", None)
    files = [source.source for source in recording.sources if source.type == "file"] if recording else []
    return "unreadable" if all(Path(name).is_file() for name in files) else "missing"


def _check(samples: Samples) -> None:
    if not samples.size:
        raise BadAudioError("empty")
    if not np.isfinite(samples).all():
        raise BadAudioError("not finite")
    if samples.min() == samples.max():
        raise BadAudioError("constant")
