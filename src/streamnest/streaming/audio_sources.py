"""Sources of audio to stream: files, folders and the standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from streamnest.data.audio_ranges import HIGHEST_RATE, LOWEST_RATE
from streamnest.data.decoding import cancel, decode
from streamnest.data.recipes.files import READ
from streamnest.data.resampling import resample
from streamnest.errors import UserError
from streamnest.samples import as_samples

AUDIO_SUFFIXES = tuple(sorted(READ))


def load_audio(path: str | Path, rate: int) -> Tensor:
    """Reads a file that soundfile supports as `(N,)` float32 at `rate`; channels are averaged.

    Raises:
        UserError: for files that are missing, empty or not audio, and for samples that are not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"no audio file at {path}")
    try:
        # `soundfile.read` seeks to 0 first, after which libsndfile drops 6.5 ms more of an Opus file than the readers
        # of training do. The path is passed as bytes, since file names need not be UTF-8.
        with soundfile.SoundFile(os.fsencode(path)) as file:
            audio, file_rate = decode(file), file.samplerate
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio: {error.error_string}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from None
    if not len(audio) or not np.isfinite(audio).all():
        raise UserError(f"{path} is empty (0 samples)" if not len(audio) else f"{path} has samples that are not finite")
    if not LOWEST_RATE <= file_rate <= HIGHEST_RATE:
        raise UserError(
            f"{path} has a sampling rate of {file_rate} Hz: it must be from {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
    if audio.shape[1] > 1 and cancel(audio.T):
        raise UserError(f"{path}: the channels are out of phase and cancel in the mean: extract one channel to a file")
    mono = torch.from_numpy(audio.mean(1))
    try:
        as_samples(mono)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    return mono if file_rate == rate else resample(mono, file_rate, rate)


def find_audio(paths: list[str]) -> list[Path]:
    """Lists files, and the audio files below folders in sorted order.

    Raises:
        UserError: for a folder without audio.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        below = sorted(filter(_is_audio, path.rglob("*"))) if path.is_dir() else [path]
        if not below:
            raise UserError(f"{path} contains no audio file ({', '.join(AUDIO_SUFFIXES)})")
        files += below
    return files


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def standard_input(seconds: float, rate: int) -> Iterator[torch.Tensor]:
    """Yields 16-bit samples at `rate` as they arrive, in pieces `(n,)` of `seconds`; a last odd byte is dropped."""
    while data := sys.stdin.buffer.read(2 * max(1, round(seconds * rate))):
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        yield torch.from_numpy(samples.astype(np.float32) / 32768)
