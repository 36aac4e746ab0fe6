"""Measurement of one audio file by decoding all of it, because headers can be wrong."""

from __future__ import annotations

import io
import math
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamnest.data.audio_ranges import HIGHEST_RATE, LARGEST_SAMPLE, LOWEST_RATE
from streamnest.data.recipes.piece import Command
from streamnest.data.recipes.segmentation import SegmentLimits, find_segments, frame_size, levels

# Seconds; Lhotse accepts a file whose length differs by less from its manifest.
_TOLERANCE = 0.025
_BLOCK_FRAMES = 3000
_UNKNOWN_SIZE = 0x7FFF0000
_OGG_HEADER, _TWO_PAGES = 27, 2 * 65307
_NIST_HEADER = 1024


@dataclass(frozen=True)
class Measurement:
    """Measurements of one file.

    Attributes:
        path: path or command, as it was given.
        cause: reason why the file cannot be used: `missing`, `unreadable`, `not as long as declared`, `empty`,
            `not finite`, `constant`; None for a good file. The terms are those of `BadAudioError`.
        detail: details of the cause.
        sampling_rate: sampling rate in Hz.
        num_samples: number of decoded samples.
        channels: number of channels.
        level_db: mean energy in dB of full scale, averaged over channels.
        segments: start and end of each segment in seconds; None if the file is not longer than the longest segment.
    """

    path: str
    cause: str | None = None
    detail: str = ""
    sampling_rate: int = 0
    num_samples: int = 0
    channels: int = 0
    level_db: float = 0.0
    segments: list[tuple[float, float]] | None = None

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sampling_rate if self.sampling_rate else 0.0


def measure(path: str, limits: SegmentLimits | None = None) -> Measurement:
    """Decodes a file of any length in bounded memory. Faults of the file are returned, never raised.

    Args:
        path: audio file that libsndfile reads, or a `Command`, whose output is held in memory.
        limits: segment limits; None disables segmentation.
    """
    try:
        if not isinstance(path, Command) and not Path(path).is_file():
            return Measurement(path, "missing")
        source = _output(path) if isinstance(path, Command) else path
        with soundfile.SoundFile(source) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                rate = f"a sampling rate of {file.samplerate} Hz: need {LOWEST_RATE} to {HIGHEST_RATE}"
                return Measurement(path, "unreadable", rate)
            measurement = _decode(path, file, limits)
            if measurement.cause in (None, "constant") and (lost := _lost(source, file)):
                measurement = replace(measurement, cause="not as long as declared", detail=lost)
            return measurement
    # Decoders raise many exceptions on damaged files, and one file must not end the run.
    except Exception as error:
        return Measurement(path, "unreadable", f"{type(error).__name__}: {error}")


def _output(command: Command) -> io.BytesIO:
    """Returns the output of a shell command; the pipe at its end is syntax of the list, not of the shell."""
    line = command.strip().removesuffix("|")
    done = subprocess.run(line, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return io.BytesIO(done.stdout)


def _decode(path: str, file: Any, limits: SegmentLimits | None) -> Measurement:
    rate, declared, channels = file.samplerate, file.frames, file.channels
    energy, count, low, high = 0.0, 0, math.inf, -math.inf
    parts = []
    # Blocks of whole frames, so that the levels do not depend on the block size.
    size = _BLOCK_FRAMES * frame_size(rate)
    # Not `SoundFile.blocks`, which hides that a file ends early.
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        mono = block.mean(1)
        energy, count = energy + float(np.square(mono, dtype=np.float64).sum()), count + len(mono)
        low, high = min(low, float(mono.min())), max(high, float(mono.max()))
        parts.append(levels(mono, rate))
    level_db = 10 * math.log10(max(energy / max(count, 1), 1e-10)) if math.isfinite(energy) else 0.0
    cause, detail = _fault(count, declared, rate, energy, low, high)
    segments = None
    if cause is None and limits is not None and count > limits.longest * rate:
        segments = find_segments(np.concatenate(parts), limits)
    return Measurement(path, cause, detail, rate, count, channels, round(level_db, 2), segments)


def _lost(source: str | io.BytesIO, file: Any) -> str:
    """Describes audio that is missing from a truncated file, which libsndfile does not report; empty if none is."""
    if file.format == "OGG":
        return "" if _ends(_tail(source)) else "it ends inside an Ogg page, or before the last one"
    if file.format == "NIST":
        samples = re.search(rb"^sample_count -i (\d+)", _head(source), re.MULTILINE)
        lost = max(0, int(samples[1]) - file.frames) if samples else 0
        return f"{lost / (file.frames + lost):.0%} is lost" if lost > _TOLERANCE * file.samplerate else ""
    # libsndfile logs the sizes that it found in the header.
    sizes = re.search(
        r"^ *(?:data|SSND|BODY|Data [Ss]ize) *: *(\d+)(?: \(should be (\d+)\))?", file.extra_info, re.MULTILINE
    )
    length = re.search(r"^Length *: *(\d+)", file.extra_info, re.MULTILINE)
    # A program that writes to a pipe does not know the size, and writes 0 or nearly the largest number.
    if not sizes or not length or int(sizes[1]) >= _UNKNOWN_SIZE:
        return ""
    declared, present = int(sizes[1]), int(sizes[2] or length[1])
    seconds = max(0, declared - present) / max(1, present) * file.frames / file.samplerate
    return f"{1 - present / declared:.0%} is lost" if seconds > _TOLERANCE else ""


def _head(source: str | io.BytesIO) -> bytes:
    """Returns the first bytes of a file, as many as a NIST SPHERE header has."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:_NIST_HEADER]
    with open(source, "rb") as raw:
        return raw.read(_NIST_HEADER)


def _tail(source: str | io.BytesIO) -> bytes:
    """Returns the last bytes of a file, at least one whole Ogg page."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[-_TWO_PAGES:]
    with open(source, "rb") as raw:
        raw.seek(max(0, raw.seek(0, io.SEEK_END) - _TWO_PAGES))
        return raw.read()


def _ends(tail: bytes) -> bool:
    """Returns True if the last Ogg page is complete and marked as the end of the stream."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < _OGG_HEADER or not page[5] & 4:
        return False
    table = page[_OGG_HEADER:][: page[_OGG_HEADER - 1]]
    return len(page) >= _OGG_HEADER + page[_OGG_HEADER - 1] + sum(table)


def _fault(count: int, declared: int, rate: int, energy: float, low: float, high: float) -> tuple[str | None, str]:
    if abs(count - declared) > _TOLERANCE * rate:
        return "not as long as declared", f"{count / rate:.2f} s of {declared / rate:.2f} s"
    if not count:
        return "empty", ""
    if not math.isfinite(energy):
        return "not finite", ""
    if (peak := max(-low, high)) > LARGEST_SAMPLE:
        return "not finite", f"samples reach {peak:.1e}, and their power overflows"
    return ("constant", "") if low == high else (None, "")
