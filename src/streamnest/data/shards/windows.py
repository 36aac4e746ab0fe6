"""Selection of the usable cuts of an index, and windows of long ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.shards.index import Ints, ShardIndex, count_samples

# Entries per block of a lookup: larger blocks are slower, smaller ones take more memory (8 bytes per block).
_BLOCK = 256
# Entries processed at a time at start.
_STRETCH = 256 * _BLOCK


class Windows(NamedTuple):
    """Usable cuts or windows of cuts.

    Attributes:
        entry: `(N,)` entry in the index.
        number: `(N,)` number of the window in its entry; -1 for a whole cut.
        start: `(N,)` first sample in its entry.
        samples: `(N,)` number of samples.
        duration: `(N,)` seconds.
    """

    entry: Ints
    number: Ints
    start: Ints
    samples: Ints
    duration: NDArray[np.float64]

    def take(self, kept: NDArray[np.bool_]) -> Windows:
        """Returns the windows that a mask selects."""
        columns: list[Any] = [column[kept] for column in self]
        return Windows(*columns)


class Selection:
    """Usable cuts of an index, computed block by block on demand; only one number per block is kept.

    Args:
        index: index of all cuts.
        limits: shortest and longest cut in seconds.
        split: split longer cuts into windows, at the same samples as `load_cuts`; otherwise drop them.
        rate: sampling rate in Hz.
        missing: numbers of the shards without an archive.

    Attributes:
        seconds: total duration of the usable cuts.
        speakers: speakers of the usable cuts.
        counts: numbers of dropped or split cuts by cause.
    """

    def __init__(
        self, index: ShardIndex, limits: tuple[float, float], split: bool, rate: int, missing: Sequence[int] = ()
    ) -> None:
        self.index, self.rate = index, rate
        self._limits, self._split, self._missing = limits, split, np.array(missing, np.int32)
        self.seconds, self.counts = 0.0, Counter[str]()
        counts, present = [], np.zeros(len(index.speakers) + 1, bool)
        for first, stop in block_ranges(len(index)):
            windows = self._select(first, stop, self.counts)
            counts.append(np.bincount((windows.entry - first) // _BLOCK, minlength=-(-(stop - first) // _BLOCK)))
            self.seconds += float(windows.duration.sum())
            # The last element stands for -1, unknown speakers.
            present[index.speaker[windows.entry]] = True
        self._ends = np.cumsum(np.concatenate([*counts, np.zeros(0, np.int64)]))
        self.speakers = {index.speakers[i] for i in np.flatnonzero(present[:-1]).tolist()}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, number: int) -> tuple[int, int, int, int, float]:
        """Returns entry, number, first sample, samples and seconds of one window, as in `Windows`."""
        block = int(np.searchsorted(self._ends, number, side="right"))
        first, stop, offset = block * _BLOCK, min((block + 1) * _BLOCK, len(self.index)), number - self._start(block)
        whole = self._whole(first, stop)
        if whole is None:
            entry, window, start, samples, duration = (column[offset].item() for column in self._select(first, stop))
            return entry, window, start, samples, duration
        seconds = float(whole[1][offset])
        return first + int(whole[0][offset]), -1, 0, count_samples(seconds, self.rate), seconds

    def durations(self, start: int, stop: int) -> NDArray[np.float64]:
        """Returns the seconds of a range of windows."""
        stop = min(stop, len(self))
        if start >= stop:
            return np.zeros(0)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        # All blocks at once, because an epoch reads all of them.
        entries = first * _BLOCK, min((last + 1) * _BLOCK, len(self.index))
        whole = self._whole(*entries)
        found = self._select(*entries).duration if whole is None else whole[1]
        return found[start - self._start(first) :][: stop - start]

    def _start(self, block: int) -> int:
        return int(self._ends[block - 1]) if block else 0

    def _whole(self, first: int, stop: int) -> tuple[Ints, NDArray[np.float64]] | None:
        """Returns positions and seconds of the usable entries if none is long, at a fifth of the cost of `_select`."""
        seconds, (shortest, longest) = np.array(self.index.duration[first:stop]), self._limits
        if seconds.max() > longest:
            return None
        usable = seconds >= shortest
        if len(self._missing):
            usable &= self._available(first, stop)
        places = np.flatnonzero(usable)
        return places, seconds[places]

    def _available(self, first: int, stop: int) -> NDArray[np.bool_]:
        if not len(self._missing):
            return np.ones(stop - first, bool)
        return ~np.isin(self.index.shard[first:stop], self._missing)

    def _select(self, first: int, stop: int, counts: Counter[str] | None = None) -> Windows:
        counts = Counter() if counts is None else counts
        duration, (shortest, longest) = np.array(self.index.duration[first:stop]), self._limits
        available = self._available(first, stop)
        counts["missing file"] += int((~available).sum())
        long = duration > longest
        counts["split" if self._split else "too long"] += int((long & available).sum())
        entries = np.flatnonzero(available if self._split else available & ~long)
        windows = _cut(duration, entries, long, longest, self.rate)
        kept = windows.duration >= shortest
        counts["too short"] += int((~kept).sum())
        return windows.take(kept)._replace(entry=windows.entry[kept] + first)


def block_ranges(count: int) -> Iterator[tuple[int, int]]:
    """Yields first and end of the ranges of whole blocks that are processed at a time."""
    return ((first, min(first + _STRETCH, count)) for first in range(0, count, _STRETCH))


def _cut(duration: NDArray[np.float64], entries: Ints, long: NDArray[np.bool_], longest: float, rate: int) -> Windows:
    """Splits the long entries into windows and takes the others whole."""
    seconds = duration[entries]
    if not long.any():
        zeros = np.zeros(len(entries), np.int64)
        return Windows(entries, zeros - 1, zeros, count_samples(seconds, rate), seconds)
    full = np.ceil(np.maximum(seconds - longest, 0) / longest).astype(np.int64)
    parts = np.where(long[entries], full + (seconds - full * longest > 0), 1)
    entry = np.repeat(entries, parts)
    number = np.arange(len(entry)) - np.repeat(np.cumsum(parts) - parts, parts)
    total, cut = count_samples(duration[entry], rate), long[entry]
    start = np.where(cut, count_samples(number * longest, rate), 0)
    samples = np.where(cut, np.minimum(total - start, count_samples(longest, rate)), total)
    lengths = np.where(cut, samples / rate, duration[entry])
    return Windows(entry, np.where(cut, number, -1), start, samples, lengths)
