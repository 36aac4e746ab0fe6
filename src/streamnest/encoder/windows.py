"""Limited attention in time linear in the length: groups of queries, each with the window of keys that it sees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from streamnest.encoder.context import Context


class Windows(NamedTuple):
    """Division of queries into groups; a group sees no key outside of its window.

    The window of queries `[n * group, (n + 1) * group)` is `[n * group - before, (n + 1) * group + after)`: neighboring
    windows overlap, and their keys are copied. The mask decides which keys of the window each query sees.

    Attributes:
        group: queries per group, a multiple of the chunk.
        before: keys before the first query of a group.
        after: keys after the last query of a group.
    """

    group: int
    before: int
    after: int

    @property
    def keys(self) -> int:
        """Keys per window."""
        return self.before + self.group + self.after

    def queries(self, x: Tensor, fill: float = 0) -> Tensor:
        """Divides queries into groups: `(B, Tq, ...)` -> `(B, N, group, ...)`; the last group is filled up."""
        return _padded(x, 0, -x.shape[1] % self.group, fill).unflatten(1, (-1, self.group))

    def windows(self, x: Tensor, frames: int, fill: float = 0) -> Tensor:
        """Copies the window of each group: `(B, Tk, ...)` -> `(B, N, keys, ...)`.

        Args:
            x: keys of the queries, or these and the `before + after` keys that precede them in a stream.
            frames: number of queries.
            fill: value of keys before the first and after the last one.
        """
        total = -(-frames // self.group) * self.group + self.before + self.after
        first = self.before if x.shape[1] == frames else 0
        return _padded(x, first, total - first - x.shape[1], fill).unfold(1, self.keys, self.group).movedim(-1, 2)

    def cost(self, frames: int, d_head: int) -> int:
        """Elements per head that attention writes: scores of keys, scores of distances, and copied keys and values."""
        groups = -(-frames // self.group)
        return groups * (self.group * (2 * self.keys + self.group) + 2 * d_head * self.keys)


def choose_windows(context: Context, frames: int, cached: int, d_head: int) -> Windows | None:
    """Divides queries into groups if this writes fewer elements than one mask over all keys; None if it does not.

    Args:
        context: context of the attention.
        frames: number of queries.
        cached: keys that precede them in a stream; 0 for whole utterances.
        d_head: width of a head.
    """
    if context.left is None or context.chunk is None or frames <= context.chunk:
        return None
    reach = context.left + context.lag
    # Elements per query: 2 * (reach + group) + group of scores, and 2 * d_head * (reach + group) / group of copies.
    best = math.sqrt(2 * d_head * max(reach, 1) / 3)
    group = max(1, round(best / context.chunk)) * context.chunk
    divided, whole = Windows(group, context.left, context.lag), Windows(frames, cached, 0)
    return divided if divided.cost(frames, d_head) < whole.cost(frames, d_head) else None


def _padded(x: Tensor, first: int, last: int, fill: float) -> Tensor:
    return F.pad(x, [0, 0] * (x.ndim - 2) + [first, last], value=fill) if first or last else x
