"""From frames of CTC log-probabilities to tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.downstream.text import BLANK


def collapse(best: Tensor, last: int = BLANK) -> tuple[list[int], int]:
    """Repeats and blanks removed from the best token of each frame `(T,)`.

    Args:
        best: tokens of the next frames of one stream.
        last: token of the frame before them.

    Returns:
        The tokens that begin in these frames, and the `last` of the next call.
    """
    if not len(best):
        return [], last
    previous = torch.cat([best.new_tensor([last]), best[:-1]])
    return best[(best != previous) & (best != BLANK)].tolist(), int(best[-1])


def greedy(scores: Tensor, lengths: Tensor) -> list[list[int]]:
    """The tokens of each row of `(B, T, V)` scores with `lengths` `(B,)` valid frames."""
    best = scores.argmax(-1)
    return [collapse(row[:length])[0] for row, length in zip(best, lengths.tolist(), strict=True)]
