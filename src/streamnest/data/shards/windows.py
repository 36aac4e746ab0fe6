"""Which cuts of an index are used, and which parts of them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.data.shards.index import Ints, ShardIndex, count_samples


class Windows(NamedTuple):
    """The usable cuts.

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


def select(
    index: ShardIndex,
    there: NDArray[np.bool_],
    limits: tuple[float, float],
    split: bool,
    rate: int,
    counts: Counter[str],
) -> Windows:
    """What `load_cuts` makes of the same cuts, to the sample."""
    shortest, longest = limits
    long = index.duration > longest
    counts["split" if split else "too long"] = int((long & there).sum())
    if not split:
        there = there & ~long
    windows = _cut(index.duration, np.flatnonzero(there), long, longest, rate)
    kept = windows.duration >= shortest
    counts["too short"] = int((~kept).sum())
    return windows.take(kept)


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
