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
from streamnest.data.decoding import Sequential, canceled, energies
from streamnest.data.recipes.files import READ
from streamnest.data.resampling import resample_blocks
from streamnest.errors import UserError
from streamnest.samples import as_samples
from streamnest.streaming.step import Rows

# Samples to reserve memory for at most: a damaged header may declare any number.
_MOST_RESERVED = 1 << 28
AUDIO_SUFFIXES = tuple(sorted(READ))


def load_audio(path: str | Path, rate: int) -> Tensor:
    """Reads a file that soundfile supports as `(N,)` float32 at `rate`; channels are averaged.

    Decodes and resamples in blocks: besides the result, it takes little memory.

    Raises:
        UserError: for files that are missing, empty or not audio, and for samples that are not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"no audio file at {path}")
    try:
        # The path is passed as bytes, since file names need not be UTF-8.
        with Sequential(os.fsencode(path)) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                raise UserError(
                    f"{path} has a sampling rate of {file.samplerate} Hz: it must be from {LOWEST_RATE} to "
                    f"{HIGHEST_RATE} Hz"
                )
            mono = Rows(min(file.frames * rate // file.samplerate + 1, _MOST_RESERVED))
            for block in resample_blocks(_mono(file, path), file.samplerate, rate):
                mono.append(block)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be read as audio: {error.error_string}") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from None
    try:
        return as_samples(mono.joined)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None


def _mono(file: Sequential, path: str | Path) -> Iterator[Tensor]:
    """Yields blocks `(n,)` of the mean of the channels.

    Raises:
        UserError: at the first sample that is not finite, and at the end if there was no sample or channels cancel.
    """
    total, count = np.zeros(2), 0
    for block in file.decoded():
        if not np.isfinite(block).all():
            raise UserError(f"{path} has samples that are not finite")
        total, count = total + energies(block), count + len(block)
        yield torch.from_numpy(block.mean(1))
    if not count:
        raise UserError(f"{path} is empty (0 samples)")
    if canceled(*total):
        raise UserError(f"{path}: the channels are out of phase and cancel in the mean: extract one channel to a file")


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
