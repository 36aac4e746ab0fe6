"""Decoding of audio files that Lhotse cannot read, and stricter limits than those of Lhotse."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse.audio import set_audio_duration_mismatch_tolerance
from lhotse.audio.backend import AudioBackend, LibsndfileBackend, get_default_audio_backend
from lhotse.utils import compute_num_samples
from numpy.typing import NDArray

TOLERANCE = 0.025
"""Maximum difference between the actual and the declared duration of audio, in seconds."""

_BLOCK = 2**16
# Energy of the mean of channels relative to the mean of their energies; two unrelated channels have 0.5.
_CANCELED = 1e-4


class Sequential(soundfile.SoundFile):
    """Audio file that is read from its start to its end, without seeking.

    Some formats cannot seek. `soundfile.read` seeks to 0 first, after which libsndfile drops 6.5 ms more of an Opus
    file than the readers of training do.
    """

    def seekable(self) -> bool:
        """Returns False: soundfile then does not seek after each block."""
        return False

    def decoded(self) -> Iterator[NDArray[np.float32]]:
        """Yields the samples in blocks `(n, C)`."""
        while len(block := self.read(_BLOCK, dtype="float32", always_2d=True)):
            yield block


def cancel(audio: NDArray[np.float32]) -> bool:
    """True if channels `(C, N)` are out of phase, so that their mean is almost silent."""
    return canceled(*energies(audio.T))


def energies(block: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the energies of samples `(n, C)`: the mean over the channels, and that of the mean of the channels."""
    of_channels = np.square(block, dtype=np.float64).mean(1).sum()
    return np.array([of_channels, np.square(block.mean(1), dtype=np.float64).sum()])


def canceled(of_channels: float, of_mean: float) -> bool:
    """True if the energies of channels and of their mean are those of channels that are out of phase."""
    return of_channels > 0 and of_mean < _CANCELED * of_channels


class _WithoutSeeking(AudioBackend):
    """Reads formats that cannot seek (GSM 6.10, G.721 ...); the other backends of Lhotse fail on them."""

    def is_applicable(self, path_or_fd: Any) -> bool:
        return isinstance(path_or_fd, (str, Path))

    def read_audio(
        self, path_or_fd: Any, offset: float = 0.0, duration: float | None = None, **_: Any
    ) -> tuple[NDArray[np.float32], int]:
        with soundfile.SoundFile(path_or_fd) as file:
            if file.seekable():
                raise ValueError("this format is read by the other backends")
        with Sequential(path_or_fd) as file:
            audio, rate = np.concatenate([np.zeros((0, file.channels), np.float32), *file.decoded()]), file.samplerate
        start = compute_num_samples(offset, rate)
        stop = None if duration is None else start + compute_num_samples(duration, rate)
        return audio[start:stop].T, rate


def _set_up_lhotse() -> None:
    """Adds the backend above and lowers the tolerance of Lhotse, which pads up to half a second with reversed audio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_audio_duration_mismatch_tolerance(TOLERANCE)
    backends = get_default_audio_backend().backends
    positions = (i for i, backend in enumerate(backends) if isinstance(backend, LibsndfileBackend))
    backends.insert(next(positions, len(backends) - 1) + 1, _WithoutSeeking())


_set_up_lhotse()
