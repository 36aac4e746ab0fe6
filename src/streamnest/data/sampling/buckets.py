"""Division of an epoch into batches of similar duration."""

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

    def batch(self, position: int) -> list[int]:
        """Returns the utterances of a batch."""
        start = self.starts[position]
        return self.order[start : start + self.sizes[position]].tolist()


class Buckets:
    """Number and sizes of the batches, which are the same in every epoch.

    The utterances of a bucket are distributed evenly over its groups, and those of a group over its batches, so that
    there is no small remainder. Everything is vectorized: a million utterances take about a second.

    Args:
        durations: `(N,)` seconds.
        batch_duration: maximum padded seconds in a batch; a longer utterance gets a batch of its own.
        max_batch_size: maximum number of utterances in a batch.
        num_buckets: number of buckets of equal total duration.
        group: number of consecutive batches that come from one bucket, one for each process.

    Raises:
        UserError: if there are no utterances or a limit is not positive.
    """

    def __init__(
        self, durations: Floats, batch_duration: float, max_batch_size: int, num_buckets: int, group: int = 1
    ) -> None:
        if not len(durations):
            raise UserError("there are no utterances to make batches of")
        if min(batch_duration, max_batch_size, num_buckets, group) <= 0:
            raise UserError(
                f"batch_duration={batch_duration}, max_batch_size={max_batch_size}, num_buckets={num_buckets}: "
                "all must be positive"
            )
        self.group = group
        # Half the memory of int64; a section has fewer than 2**31 utterances.
        self._sorted = np.argsort(durations, kind="stable").astype(np.int32)
        ordered = np.asarray(durations, np.float64)[self._sorted]
        _, count = np.unique(_equal_shares(ordered, num_buckets), return_counts=True)
        self._count = count
        longest = ordered[np.cumsum(count) - 1]
        size = np.clip(batch_duration // longest, 1, max_batch_size).astype(np.int64)
        group_sizes = _distribute(count, -(-count // (size * group)))
        self._parts = np.minimum(group_sizes, group)
        self._sizes = _distribute(group_sizes, self._parts)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def __len__(self) -> int:
        """Number of batches in an epoch, of all processes together."""
        return len(self._sizes)

    def arrange(self, rng: np.random.Generator | None) -> Arrangement:
        """Returns the batches of one epoch in a random order; sorted by duration if `rng` is None."""
        if rng is None:
            return Arrangement(self._sorted, self._starts, self._sizes)
        bucket = np.repeat(np.arange(len(self._count), dtype=np.int32), self._count)
        order = self._sorted[np.lexsort((rng.random(len(self._sorted)), bucket))]
        # Groups with fewer batches than processes come last, so that they do not shift other groups.
        rank = np.argsort(np.lexsort((rng.random(len(self._parts)), self._parts < self.group)))
        positions = np.argsort(np.repeat(rank, self._parts), kind="stable")
        return Arrangement(order, self._starts[positions], self._sizes[positions])


def _equal_shares(ordered: Floats, num_buckets: int) -> Ints:
    """Returns the bucket of each utterance, `(N,)`, from its position in the total duration."""
    before = np.cumsum(ordered) - ordered
    return np.minimum(before / ordered.sum() * num_buckets, num_buckets - 1).astype(np.int64)


def _distribute(totals: Ints, parts: Ints) -> Ints:
    """Splits each total into a number of parts that differ by at most one; returns all parts, concatenated."""
    index = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    return np.repeat(totals // parts, parts) + (index < np.repeat(totals % parts, parts))
