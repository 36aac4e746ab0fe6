"""How an epoch is cut into batches of similar duration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnest.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Arrangement(NamedTuple):
    """One epoch: batch `i` is `order[starts[i] : starts[i] + sizes[i]]`."""

    order: NDArray[np.int32]
    starts: Ints
    sizes: Ints

    def batch(self, place: int) -> list[int]:
        """Utterances of one batch."""
        start = self.starts[place]
        return self.order[start : start + self.sizes[place]].tolist()


class Buckets:
    """The part of the arrangement that is the same in every epoch: how many batches there are and how large.

    Utterances of one bucket are dealt evenly to its groups and those of a group evenly to its batches, so that no
    small remainder is left over. Everything is vectorised: a million utterances take about a second.

    Args:
        durations: `(N,)` seconds.
        batch_duration: most padded seconds in a batch; a longer utterance gets a batch to itself.
        max_batch_size: most utterances in a batch.
        num_buckets: number of buckets, of equal total duration.
        group: batches that follow each other and come from one bucket: one for each process.

    Raises:
        UserError: for no utterances or limits that admit none.
    """

    def __init__(
        self, durations: Floats, batch_duration: float, max_batch_size: int, num_buckets: int, group: int = 1
    ) -> None:
        if not len(durations):
            raise UserError("no utterances to make batches of")
        if min(batch_duration, max_batch_size, num_buckets, group) <= 0:
            raise UserError(
                f"batch_duration={batch_duration}, max_batch_size={max_batch_size}, num_buckets={num_buckets}: "
                "all must be positive"
            )
        self.group = group
        # Half the memory of int64, and enough for what is held at once.
        self._sorted = np.argsort(durations, kind="stable").astype(np.int32)
        ordered = np.asarray(durations, np.float64)[self._sorted]
        _, count = np.unique(_equal_shares(ordered, num_buckets), return_counts=True)
        self._count = count
        longest = ordered[np.cumsum(count) - 1]
        size = np.clip(batch_duration // longest, 1, max_batch_size).astype(np.int64)
        group_sizes = _deal(count, -(-count // (size * group)))
        self._parts = np.minimum(group_sizes, group)
        self._sizes = _deal(group_sizes, self._parts)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def __len__(self) -> int:
        """Batches in an epoch, of all processes together."""
        return len(self._sizes)

    def arrange(self, rng: np.random.Generator | None) -> Arrangement:
        """The batches of one epoch: in a random order, or sorted by duration where `rng` is None."""
        if rng is None:
            return Arrangement(self._sorted, self._starts, self._sizes)
        bucket = np.repeat(np.arange(len(self._count), dtype=np.int32), self._count)
        order = self._sorted[np.lexsort((rng.random(len(self._sorted)), bucket))]
        # Groups that cannot serve every process come last, so that they shift no other group.
        rank = np.argsort(np.lexsort((rng.random(len(self._parts)), self._parts < self.group)))
        places = np.argsort(np.repeat(rank, self._parts), kind="stable")
        return Arrangement(order, self._starts[places], self._sizes[places])


def _equal_shares(ordered: Floats, num_buckets: int) -> Ints:
    """Bucket of each utterance, `(N,)`, by its place in the total duration."""
    before = np.cumsum(ordered) - ordered
    return np.minimum(before / ordered.sum() * num_buckets, num_buckets - 1).astype(np.int64)


def _deal(totals: Ints, parts: Ints) -> Ints:
    """Splits each total into so many parts that differ by one at most; returns all parts in a row."""
    place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.repeat(totals // parts, parts) + (place < np.repeat(totals % parts, parts))
