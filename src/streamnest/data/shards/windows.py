"""Which cuts of an index are used, and which parts of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.shards.index import Ints, ShardIndex, count_samples

# Entries of the index: a block takes some 50 µs, and a million of them 8 kB. A stretch is what a start goes through.
_BLOCK = 1024
_STRETCH = 64 * _BLOCK


class Windows(NamedTuple):
    """Some of the usable cuts.

    Attributes:
        entry: `(N,)` of the index.
        number: `(N,)` of the window in its entry; -1 for a cut that is taken whole.
        start: `(N,)` first sample in its entry.
        samples: `(N,)`.
        duration: `(N,)` seconds.
    """

    entry: Ints
    number: Ints
    start: Ints
    samples: Ints
    duration: NDArray[np.float64]

    def take(self, kept: NDArray[np.bool_]) -> Windows:
        """Some of them."""
        columns: list[Any] = [column[kept] for column in self]
        return Windows(*columns)


class Selection:
    """The usable cuts of an index, worked out a block at a time whenever they are asked for.

    All that is held is a number for each block, whatever the index holds.

    Args:
        index: of all cuts.
        limits: seconds of the shortest and the longest.
        split: longer ones into windows, as `load_cuts` does to the sample; or drop them.
        rate: of the audio.
        lost: numbers of the shards without an archive.

    Attributes:
        seconds: of all usable cuts.
        speakers: of them.
        counts: of what was dropped or split, by cause.
    """

    def __init__(
        self, index: ShardIndex, limits: tuple[float, float], split: bool, rate: int, lost: Sequence[int] = ()
    ) -> None:
        self.index, self.rate = index, rate
        self._limits, self._split, self._lost = limits, split, np.array(lost, np.int32)
        self.seconds, self.counts = 0.0, Counter[str]()
        self._latest: tuple[int, Windows] | None = None
        found, heard = [], np.zeros(len(index.speakers) + 1, bool)
        for first, stop in stretches(len(index)):
            windows = self._select(first, stop, self.counts)
            found.append(np.bincount((windows.entry - first) // _BLOCK, minlength=-(-(stop - first) // _BLOCK)))
            self.seconds += float(windows.duration.sum())
            # The last place is for number -1, unknown speakers.
            heard[index.speaker[windows.entry]] = True
        self._ends = np.cumsum(np.concatenate([*found, np.zeros(0, np.int64)]))
        self.speakers = {index.speakers[i] for i in np.flatnonzero(heard[:-1]).tolist()}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, number: int) -> tuple[int, int, int, int, float]:
        """Entry, number, first sample, samples and seconds of one, as in `Windows`."""
        block = int(np.searchsorted(self._ends, number, side="right"))
        windows = self._block(block)
        entry, window, start, samples, duration = (column[number - self._start(block)].item() for column in windows)
        return entry, window, start, samples, duration

    def durations(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds of the cuts from one number to another."""
        stop = min(stop, len(self))
        if start >= stop:
            return np.zeros(0)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        blocks = [self._block(block).duration for block in range(first, last + 1)]
        return np.concatenate(blocks)[start - self._start(first) :][: stop - start]

    def _start(self, block: int) -> int:
        return int(self._ends[block - 1]) if block else 0

    def _block(self, block: int) -> Windows:
        # Neighbours are often asked for in a row.
        latest = self._latest
        if latest is None or latest[0] != block:
            first = block * _BLOCK
            latest = block, self._select(first, min(first + _BLOCK, len(self.index)), Counter())
            self._latest = latest
        return latest[1]

    def _select(self, first: int, stop: int, counts: Counter[str]) -> Windows:
        duration, (shortest, longest) = np.array(self.index.duration[first:stop]), self._limits
        there = np.ones(stop - first, bool)
        if len(self._lost):
            there = ~np.isin(self.index.shard[first:stop], self._lost)
            counts["missing file"] += int((~there).sum())
        long = duration > longest
        counts["split" if self._split else "too long"] += int((long & there).sum())
        windows = _cut(duration, np.flatnonzero(there if self._split else there & ~long), long, longest, self.rate)
        kept = windows.duration >= shortest
        counts["too short"] += int((~kept).sum())
        return windows.take(kept)._replace(entry=windows.entry[kept] + first)


def stretches(count: int) -> Iterator[tuple[int, int]]:
    """Whole blocks of an index of so many cuts, as many as are worked through at once: first and end of each."""
    return ((first, min(first + _STRETCH, count)) for first in range(0, count, _STRETCH))


def _cut(duration: NDArray[np.float64], entries: Ints, long: NDArray[np.bool_], longest: float, rate: int) -> Windows:
    """Windows of the long entries, the others whole."""
    seconds = duration[entries]
    full = np.ceil(np.maximum(seconds - longest, 0) / longest).astype(np.int64)
    parts = np.where(long[entries], full + (seconds - full * longest > 0), 1)
    entry = np.repeat(entries, parts)
    number = np.arange(len(entry)) - np.repeat(np.cumsum(parts) - parts, parts)
    total, cut = count_samples(duration[entry], rate), long[entry]
    start = np.where(cut, count_samples(number * longest, rate), 0)
    samples = np.where(cut, np.minimum(total - start, count_samples(longest, rate)), total)
    lengths = np.where(cut, samples / rate, duration[entry])
    return Windows(entry, np.where(cut, number, -1), start, samples, lengths)
