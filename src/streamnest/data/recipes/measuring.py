"""What one file of audio is, found by decoding it to the end, since headers lie."""

from __future__ import annotations

import io
import math
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamnest.data.recipes.piece import Command
from streamnest.data.recipes.segmentation import Limits, find_segments, frame_size, levels

# Lhotse reads a file that differs by less from what its manifest declares.
_TOLERANCE = 0.025
_BLOCK_FRAMES = 3000
_UNKNOWN_SIZE = 0x7FFF0000


@dataclass(frozen=True)
class Facts:
    """What one file was found to be.

    Attributes:
        path: as it was asked for.
        cause: why it cannot be used: `missing`, `unreadable`, `not as long as declared`, `empty`, `not finite`,
            `constant`; None for a good file. The words are those of `BadAudioError`.
        detail: of the cause.
        sampling_rate: hertz.
        num_samples: decoded.
        channels: number of them.
        level_db: mean energy in dB of full scale, channels averaged.
        segments: start and end of each in seconds; None for a file that is not longer than a segment may be.
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
        """Seconds."""
        return self.num_samples / self.sampling_rate if self.sampling_rate else 0.0


def measure(path: str, limits: Limits | None = None) -> Facts:
    """Decodes a file of any length in bounded memory. Never raises for what is wrong with the file.

    Args:
        path: of an audio file that libsndfile reads, or a `Command`, which is run and whose output is held whole.
        limits: of segments; None finds none.
    """
    try:
        if not isinstance(path, Command) and not Path(path).is_file():
            return Facts(path, "missing")
        with soundfile.SoundFile(_output(path) if isinstance(path, Command) else path) as file:
            return _decode(path, file, limits)
    # Decoders raise whatever they like on damaged files, and one file must not end the run.
    except Exception as error:
        return Facts(path, "unreadable", f"{type(error).__name__}: {error}")


def _output(command: Command) -> io.BytesIO:
    """The output of a shell command, whose pipe at the end belongs to the list and not to the shell."""
    words = command.strip().removesuffix("|")
    done = subprocess.run(words, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return io.BytesIO(done.stdout)


def _decode(path: str, file: Any, limits: Limits | None) -> Facts:
    rate, channels = file.samplerate, file.channels
    declared, lost = file.frames, _lost(file.extra_info)
    energy, count, low, high = 0.0, 0, math.inf, -math.inf
    parts = []
    # Blocks of whole frames: the levels of a file do not depend on how it is read.
    size = _BLOCK_FRAMES * frame_size(rate)
    # Not its method `blocks`, which hides that a file ends before it should.
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        mono = block.mean(1)
        energy, count = energy + float(np.square(mono, dtype=np.float64).sum()), count + len(mono)
        low, high = min(low, float(mono.min())), max(high, float(mono.max()))
        parts.append(levels(mono, rate))
    level_db = 10 * math.log10(max(energy / max(count, 1), 1e-10)) if math.isfinite(energy) else 0.0
    cause, detail = _fault(count, declared, rate, energy, low == high)
    if cause in (None, "constant") and (isinstance(lost, str) or lost * count > _TOLERANCE * rate):
        cause, detail = "not as long as declared", lost if isinstance(lost, str) else f"{lost / (1 + lost):.0%} is lost"
    segments = None
    if cause is None and limits is not None and count > limits.longest * rate:
        segments = find_segments(np.concatenate(parts), limits)
    return Facts(path, cause, detail, rate, count, channels, round(level_db, 2), segments)


def _lost(log: str) -> float | str:
    """Audio that a file says to hold but does not: bytes lost for each byte there, or a sentence.

    libsndfile decodes what is there; what it found while opening is in its log.
    """
    if "lacks an end-of-stream bit" in log:
        return "its last Ogg page does not end the stream"
    sizes = re.search(r"^ *(?:data|SSND|Data [Ss]ize) *: *(\d+)(?: \(should be (\d+)\))?", log, re.MULTILINE)
    length = re.search(r"^Length *: *(\d+)", log, re.MULTILINE)
    if not sizes or not length:
        return 0.0
    declared, there = int(sizes[1]), int(sizes[2] or length[1])
    # Who writes into a pipe cannot know the size, and says 0 or nearly the largest number.
    return 0.0 if declared >= _UNKNOWN_SIZE else max(0, declared - there) / max(1, there)


def _fault(count: int, declared: int, rate: int, energy: float, constant: bool) -> tuple[str | None, str]:
    if abs(count - declared) > _TOLERANCE * rate:
        return "not as long as declared", f"{count / rate:.2f} s of {declared / rate:.2f} s"
    if not count:
        return "empty", ""
    if not math.isfinite(energy):
        return "not finite", ""
    return ("constant", "") if constant else (None, "")
