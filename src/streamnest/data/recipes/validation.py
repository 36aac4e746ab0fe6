"""Opens, decodes and measures files in several processes, and remembers what it found.

Every file is decoded once and whole, since headers lie. What was found is appended to a journal, so that a run that was
interrupted, or is repeated after files were added, decodes only what is new or has changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamnest.data.recipes.segmentation import Limits, find_segments, frame_size, levels
from streamnest.errors import UserError

# Lhotse reads a file that differs by less from what its manifest declares.
_TOLERANCE = 0.025
_CHUNK = 16
# Of what is found in a file; journals of other versions do not count.
_VERSION = 1
_BLOCK_FRAMES = 3000


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
        path: of an audio file that libsndfile reads.
        limits: of segments; None finds none.
    """
    if not Path(path).is_file():
        return Facts(path, "missing")
    try:
        with soundfile.SoundFile(path) as file:
            return _decode(path, file, limits)
    # Decoders raise whatever they like on damaged files, and one file must not end the run.
    except Exception as error:
        return Facts(path, "unreadable", f"{type(error).__name__}: {error}")


def _decode(path: str, file: Any, limits: Limits | None) -> Facts:
    rate, declared, channels = file.samplerate, file.frames, file.channels
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
    segments = None
    if cause is None and limits is not None and count > limits.longest * rate:
        segments = find_segments(np.concatenate(parts), limits)
    return Facts(path, cause, detail, rate, count, channels, round(level_db, 2), segments)


def _fault(count: int, declared: int, rate: int, energy: float, constant: bool) -> tuple[str | None, str]:
    if abs(count - declared) > _TOLERANCE * rate:
        return "not as long as declared", f"{count / rate:.2f} s of {declared / rate:.2f} s"
    if not count:
        return "empty", ""
    if not math.isfinite(energy):
        return "not finite", ""
    return ("constant", "") if constant else (None, "")


class Journal:
    """Facts on disk, one JSON line each; an entry holds for one size and time of change of its file.

    Args:
        path: of the file; made when the first entry comes.
        limits: of segments; entries found with other limits do not count.
    """

    def __init__(self, path: Path, limits: Limits | None) -> None:
        self.path, self.limits = path, limits
        self._torn = False
        self._known: dict[str, tuple[list[Any] | None, Facts]] = {}
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
            self._torn = not line.endswith("\n")
            self._recall(line)

    def look_up(self, path: str) -> Facts | None:
        """What is known about a file as it is now."""
        key, facts = self._known.get(path, (None, None))
        return facts if key is not None and key == self._key(path) else None

    def add(self, found: Iterable[Facts]) -> None:
        """Remembers facts, on disk before it returns. Missing files are not remembered: they may come."""
        lines, self._torn = ["\n"] if self._torn else [], False
        for facts in found:
            if facts.cause != "missing":
                key = self._key(facts.path)
                self._known[facts.path] = key, facts
                lines.append(json.dumps({"key": key, **asdict(facts)}, ensure_ascii=False) + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _key(self, path: str) -> list[Any] | None:
        try:
            status = Path(path).stat()
        except OSError:
            return None
        limits = [self.limits.shortest, self.limits.longest] if self.limits else []
        return [_VERSION, status.st_size, status.st_mtime_ns, *limits]

    def _recall(self, line: str) -> None:
        try:
            entry = json.loads(line)
            key = entry.pop("key")
            self._known[entry["path"]] = key, Facts(**entry)
        # A killed run leaves half a line; the file is simply checked again.
        except (ValueError, TypeError, KeyError, AttributeError):
            return


def check_files(
    paths: list[str], journal: Journal, jobs: int = 1, tick: Callable[[int], None] = lambda count: None
) -> tuple[dict[str, Facts], int]:
    """Facts of every file, and how many of them the journal knew.

    Args:
        paths: each once.
        journal: answers first, and learns the rest.
        jobs: processes; 1 stays in this one.
        tick: is told how many more files are done.

    Raises:
        UserError: a worker died, as decoders written in C can on damaged files.
    """
    known = {path: facts for path in paths if (facts := journal.look_up(path)) is not None}
    tick(len(known))
    unknown = iter([path for path in paths if path not in known])
    result = dict(known)
    chunks = iter(lambda: list(islice(unknown, _CHUNK)), [])
    for found in _measured(chunks, journal.limits, jobs):
        journal.add(found)
        result.update((facts.path, facts) for facts in found)
        tick(len(found))
    return result, len(known)


def _measure_all(paths: list[str], limits: Limits | None) -> list[Facts]:
    return [measure(path, limits) for path in paths]


def _measured(chunks: Iterator[list[str]], limits: Limits | None, jobs: int) -> Iterator[list[Facts]]:
    if jobs <= 1:
        yield from (_measure_all(chunk, limits) for chunk in chunks)
        return
    # A fresh interpreter each: forking a process that has torch's threads can hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from _through(pool, chunks, limits, 4 * jobs)
        finally:
            # What is not begun need not be waited for when the run is stopped.
            pool.shutdown(wait=False, cancel_futures=True)


def _through(
    pool: ProcessPoolExecutor, chunks: Iterator[list[str]], limits: Limits | None, ahead: int
) -> Iterator[list[Facts]]:
    waiting = {pool.submit(_measure_all, chunk, limits): chunk for chunk in islice(chunks, ahead)}
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            chunk = waiting.pop(future)
            try:
                found = future.result()
            except BrokenProcessPool:
                raise UserError(
                    f"a process died while it decoded one of the files from {chunk[0]} to {chunk[-1]}, or memory ran "
                    "out; move the damaged file away or lower --jobs, then run the command again"
                ) from None
            yield found
            waiting.update({pool.submit(_measure_all, more, limits): more for more in islice(chunks, 1)})
