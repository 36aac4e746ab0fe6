"""Reading the audio of a cut, and telling bad audio from good."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from lhotse.audio import DurationMismatchError
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from numpy.typing import NDArray

from streamnest.console.redaction import redact
from streamnest.data.audio_ranges import LARGEST_SAMPLE
from streamnest.data.decoding import cancel
from streamnest.data.resampling import resample as resample  # sets Lhotse's resampling up as well

SAMPLING_RATE = 16000
Samples = NDArray[np.float32]
Channel = int | Literal["mix", "first"]


class BadAudioError(Exception):
    """Audio that cannot be trained on.

    Attributes:
        cause: one of `missing`, `not as long as declared`, `unreadable`, `no such channel`, `empty`, `not finite`,
            `constant`, `channels out of phase`, and those of `StoreError`.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause} ({detail})" if detail else cause)
        self.cause = cause


def load_mono(cut: Cut, channel: Channel = "mix") -> Samples:
    """Audio of a cut at the cut's sampling rate, `(N,)` float32. Peaks beyond 1 are left as they are.

    Args:
        cut: with a recording; resampling and the like happen as the cut says.
        channel: of audio with several: their mean ("mix"), the "first" that the cut has, or one of them, by its number
            in the file, from 0. Mono audio is taken as it is.

    Raises:
        BadAudioError: for anything that is not finite, varying audio of the declared length.
    """
    audio = _read(cut)
    if len(audio) > 1:
        audio = _mix(audio) if channel == "mix" else audio[_row(cut, channel, len(audio))]
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


def _mix(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    if cancel(audio):
        raise BadAudioError("channels out of phase", "their mean is silent; data.channel=0 takes the first")
    mean: NDArray[np.float32] = audio.mean(0)
    return mean


def _row(cut: Cut, channel: Channel, rows: int) -> int:
    """Row of a channel: a cut may hold some channels of its file only."""
    if channel == "first":
        return 0
    named = _channels(cut)
    held = named if len(named) == rows else list(range(rows))
    if channel not in held:
        raise BadAudioError("no such channel", f"{channel} of {', '.join(map(str, held))}")
    return held.index(int(channel))


def source_name(cut: Cut) -> str:
    """The file a cut is read from, for messages; its id where there is none."""
    if not isinstance(cut, Cut):
        return cut.source_name
    recording = getattr(cut, "recording", None)
    return redact(str(recording.sources[0].source)) if recording and recording.sources else cut.id


def _read(cut: Cut) -> NDArray[np.float32]:
    try:
        audio = cut.load_audio()
        if audio is not None:
            audio = _declared(cut, np.atleast_2d(audio))
    except BadAudioError:
        raise
    # Decoders raise whatever they like on damaged files, and no file may end a run of weeks.
    except Exception as error:
        raise BadAudioError(_cause(cut, error), type(error).__name__) from error
    if audio is None:
        raise BadAudioError("unreadable", "the cut has no audio")
    return audio


def _declared(cut: Cut, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """The channels that a cut names, of files that hold more than their recording declares."""
    channels = _channels(cut)
    if not channels or len(audio) == len(channels):
        return audio
    if len(cut.recording.sources) == 1:
        # Lhotse has taken rows away by their places in what is declared.
        audio = np.atleast_2d(cut.recording.load_audio(offset=cut.start, duration=cut.duration))
    if max(channels) >= len(audio):
        raise BadAudioError("no such channel", f"{max(channels)} of {len(audio)}")
    return audio[channels]


def _channels(cut: Cut) -> list[int]:
    """Numbers of the channels of a cut in the order of its audio; none for cuts that are mixed or of shards."""
    if not isinstance(cut, DataCut):
        return []
    if isinstance(cut.channel, int):
        return [cut.channel]
    order = [channel for source in cut.recording.sources for channel in source.channels]
    return sorted(cut.channel, key=lambda channel: order.index(channel) if channel in order else channel)


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
    if (peak := max(-samples.min(), samples.max())) > LARGEST_SAMPLE:
        raise BadAudioError("not finite", f"samples reach {peak:.1e}, and their power overflows")
    if samples.min() == samples.max():
        raise BadAudioError("constant")
