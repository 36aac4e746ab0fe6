"""Reading the audio of a cut and rejecting bad audio."""

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
from streamnest.data.resampling import resample as resample  # also configures the resampling of Lhotse

SAMPLING_RATE = 16000
Samples = NDArray[np.float32]
Channel = int | Literal["mix", "first"]


class BadAudioError(Exception):
    """Audio that cannot be trained on.

    Attributes:
        cause: `missing`, `not as long as declared`, `unreadable`, `no such channel`, `empty`, `not finite`, `constant`,
            `channels out of phase`, or a cause of `StoreError`.
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause} ({detail})" if detail else cause)
        self.cause = cause


def load_mono(cut: Cut, channel: Channel = "mix") -> Samples:
    """Loads the audio of a cut at the sampling rate of the cut, `(N,)` float32. Peaks beyond 1 are kept.

    Args:
        cut: a cut with a recording; the transforms of the cut, such as resampling, are applied.
        channel: "mix" averages several channels, "first" selects the first one of the cut, and a number selects a
            channel by its index in the file, from 0. It does not affect mono audio.

    Raises:
        BadAudioError: unless the audio is finite, varies and has the declared length.
    """
    audio = _read(cut)
    if len(audio) > 1:
        audio = _mix(audio) if channel == "mix" else audio[_row(cut, channel, len(audio))]
    samples = np.ascontiguousarray(audio.reshape(-1), np.float32)
    _check(samples)
    return samples


def load_channels(cut: Cut) -> Samples:
    """Loads the audio of a cut with all its channels, `(C, N)` float32.

    Raises:
        BadAudioError: in the cases of `load_mono`.
    """
    audio = np.ascontiguousarray(_read(cut), np.float32)
    _check(audio)
    return audio


def _mix(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    if cancel(audio):
        raise BadAudioError("channels out of phase", "their mean is silent; data.channel=0 selects the first")
    mean: NDArray[np.float32] = audio.mean(0)
    return mean


def _row(cut: Cut, channel: Channel, rows: int) -> int:
    """Returns the row of a channel: a cut may have only some of the channels of its file."""
    if channel == "first":
        return 0
    named = _channels(cut)
    available = named if len(named) == rows else list(range(rows))
    if channel not in available:
        raise BadAudioError("no such channel", f"{channel} of {', '.join(map(str, available))}")
    return available.index(int(channel))


def source_name(cut: Cut) -> str:
    """Returns the file that a cut is read from, for messages; the id of the cut if there is none."""
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
    # Decoders raise any kind of exception on damaged files, and no file may end a long run.
    except Exception as error:
        raise BadAudioError(_cause(cut, error), type(error).__name__) from error
    if audio is None:
        raise BadAudioError("unreadable", "the cut has no audio")
    return audio


def _declared(cut: Cut, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Selects the channels that a cut names if a file has more channels than its recording declares."""
    channels = _channels(cut)
    if not channels or len(audio) == len(channels):
        return audio
    if len(cut.recording.sources) == 1:
        # Lhotse has dropped rows by their positions among the declared channels.
        audio = np.atleast_2d(cut.recording.load_audio(offset=cut.start, duration=cut.duration))
    if max(channels) >= len(audio):
        raise BadAudioError("no such channel", f"{max(channels)} of {len(audio)}")
    return audio[channels]


def _channels(cut: Cut) -> list[int]:
    """Returns the channels of a cut in the order of its audio; none for mixed cuts and cuts of shards."""
    if not isinstance(cut, DataCut):
        return []
    if isinstance(cut.channel, int):
        return [cut.channel]
    order = [channel for source in cut.recording.sources for channel in source.channels]
    return sorted(cut.channel, key=lambda channel: order.index(channel) if channel in order else channel)


def _cause(cut: Cut, error: Exception) -> str:
    """Returns the cause of an error: most errors have the same type in Lhotse."""
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
        raise BadAudioError("not finite", f"samples reach {peak:.1e}, so that their power overflows")
    if samples.min() == samples.max():
        raise BadAudioError("constant")
