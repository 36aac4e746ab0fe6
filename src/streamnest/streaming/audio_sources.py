"""Where audio to stream comes from: files, folders, and the standard input."""

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
    """Audio of any file that soundfile reads, `(N,)` float32 at `rate`; channels are averaged.

    Raises:
        UserError: for files that are missing, no audio, empty, or not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"no audio file at {path}")
    try:
        # Not `soundfile.read`: it seeks to 0 first, after which libsndfile drops 6.5 ms more of an Opus file than the
        # readers of training do.
        # Bytes, as names need not be of UTF-8.
        with soundfile.SoundFile(os.fsencode(path)) as file:
            audio, found = decode(file), file.samplerate
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio: {error.error_string}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from None
    if not len(audio) or not np.isfinite(audio).all():
        raise UserError(f"{path} holds no audio" if not len(audio) else f"{path} holds samples that are not finite")
    if not LOWEST_RATE <= found <= HIGHEST_RATE:
        raise UserError(f"{path} has a sampling rate of {found} Hz: need {LOWEST_RATE} to {HIGHEST_RATE}")
    if audio.shape[1] > 1 and cancel(audio.T):
        raise UserError(f"{path}: its channels are out of phase, their mean is silent: give a file of one of them")
    mono = torch.from_numpy(audio.mean(1))
    try:
        as_samples(mono)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    return mono if found == rate else resample(mono, found, rate)


def find_audio(paths: list[str]) -> list[Path]:
    """Files, and the audio files below folders, sorted.

    Raises:
        UserError: for a folder without audio.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        below = sorted(filter(_is_audio, path.rglob("*"))) if path.is_dir() else [path]
        if not below:
            raise UserError(f"{path} holds no audio file ({', '.join(AUDIO_SUFFIXES)})")
        files += below
    return files


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def standard_input(seconds: float, rate: int) -> Iterator[torch.Tensor]:
    """16-bit samples at `rate` as they arrive, pieces of so many seconds `(n,)`; a last odd byte is dropped."""
    while data := sys.stdin.buffer.read(2 * max(1, round(seconds * rate))):
        samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        yield torch.from_numpy(samples.astype(np.float32) / 32768)
