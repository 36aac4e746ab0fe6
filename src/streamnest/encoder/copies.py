"""Re-encoded right context (`style=buffered`): hard copies of the frames after each chunk.

A window is a chunk and the frames after it. Each window is encoded on its own: the frames after the chunk are copies,
which only their window sees, and which are encoded again with the next chunk. Earlier windows are visible through the
frames of their chunks only, as in Emformer (Shi et al. 2020, arXiv 2010.10759, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from streamnest.encoder.context import Context
from streamnest.encoder.windows import Windows

# Far below any score, but finite: a padding frame, which sees no key, must not become NaN.
FINITE_MASKED = -30_000.0


class Copies(NamedTuple):
    """Layout of the frames of a layer: those of all chunks in their order, then the copies, window by window.

    Attributes:
        chunk: frames of a chunk, C.
        right: copies per window, R.
        num_windows: number of windows, n.
        windows: division of the chunks into groups, if attention is computed group by group.
    """

    chunk: int
    right: int
    num_windows: int
    windows: Windows | None = None

    @property
    def frames(self) -> int:
        """Frames of all chunks."""
        return self.num_windows * self.chunk

    @property
    def group(self) -> int:
        """Windows per group."""
        return self.windows.group // self.chunk if self.windows else self.num_windows

    def arrange(self, x: Tensor) -> Tensor:
        """Appends the copies to the frames of the chunks: `(B, n C + R, ...)` -> `(B, n (C + R), ...)`."""
        copies = x.narrow(1, self.chunk, self.frames - self.chunk + self.right).unfold(1, self.right, self.chunk)
        return torch.cat([x.narrow(1, 0, self.frames), copies.movedim(-1, 2).flatten(1, 2)], dim=1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Splits past, chunks and copies into `(B, past + n C, ...)` and `(B, n, R, ...)`."""
        copies = self.num_windows * self.right
        chunks, right = x.split([x.shape[1] - copies, copies], dim=1)
        return chunks, right.unflatten(1, (self.num_windows, self.right))

    def by_window(self, x: Tensor) -> Tensor:
        """Collects the frames of each window: `(B, n (C + R), ...)` -> `(B, n, C + R, ...)`."""
        chunks, right = self.split(x)
        return torch.cat([chunks.unflatten(1, (self.num_windows, self.chunk)), right], dim=2)

    def in_order(self, windows: Tensor) -> Tensor:
        """Reverses `by_window`."""
        chunks, right = windows.split([self.chunk, self.right], dim=2)
        return torch.cat([chunks.flatten(1, 2), right.flatten(1, 2)], dim=1)

    def grouped(self, windows: Tensor) -> Tensor:
        """Makes groups rows of the batch: `(B, n, ...)` -> `(B N, G, ...)`; the last group is filled up."""
        missing = -self.num_windows % self.group
        filled = F.pad(windows, [0, 0] * (windows.ndim - 2) + [0, missing]) if missing else windows
        return filled.unflatten(1, (-1, self.group)).flatten(0, 1)

    def group_keys(self, chunks: Tensor, fill: float = 0) -> Tensor:
        """Returns the frames of past and chunks that each group sees: `(B, past + n C, ...)` -> `(B, N, K, ...)`."""
        return self.windows.windows(chunks, self.frames, fill) if self.windows else chunks[:, None]


def make_copies(context: Context, frames: int, windows: Windows | None) -> Copies | None:
    """Returns the layout of `frames` frames, rounded up to whole chunks; None if no frame is encoded again."""
    if not context.ahead or context.chunk is None:
        return None
    return Copies(context.chunk, context.ahead, -(-frames // context.chunk), windows)


def copy_masks(copies: Copies, start: Tensor, cached: int, left: int | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the masks of a layer.

    Args:
        copies: layout of the frames.
        start: `(B or 1,)` number of the first frame.
        cached: frames before it whose keys are cached.
        left: frames before its chunk that a frame sees; None is unlimited.
        lengths: `(B,)` frames of each row.

    Returns:
        The attention mask, `(B, 1, 1, K)` for one window and otherwise `(B, N, 1, G, 1, K + R)`: keys of past and
        chunks, then the copies of the window. And the valid frames `(B, n (C + R), 1)`.
    """
    time = start[:, None] + torch.arange(-cached, copies.frames + copies.right, device=start.device)
    inside = (time >= 0) & (time < lengths[:, None])
    valid = copies.arrange(inside[:, cached:])
    if copies.num_windows == 1:
        return inside[:, None, None], valid[..., None]
    first = time[:, cached : cached + copies.frames : copies.chunk]
    keys = time[:, : cached + copies.frames]
    first = copies.grouped(first).unflatten(0, (len(time), -1))[..., None]
    seen = copies.group_keys(keys, -1)[:, :, None]
    visible = (seen >= 0) & (seen < lengths[:, None, None, None]) & (seen < first + copies.chunk)
    if left is not None:
        visible = visible & (seen >= first - left)
    own = copies.grouped(copies.split(valid)[1]).unflatten(0, (len(valid), -1))
    mask = torch.cat([visible, own], dim=-1)
    return mask[:, :, None, :, None], valid[..., None]


def relative_shift(scores: Tensor, step: int = 1) -> Tensor:
    """Moves column `step * (Tq - 1 - i) + j` of row i to column j.

    Args:
        scores: `(..., Tq, columns)`.
        step: distance of neighboring rows.

    Returns:
        `(..., Tq, columns - step * (Tq - 1))`.
    """
    queries, distances = scores.shape[-2:]
    if queries == 1:
        return scores
    # In row-major order, the part of row i that is kept starts `distances - step` elements after that of row i - 1.
    kept = scores.flatten(-2).narrow(-1, step * (queries - 1), queries * (distances - step))
    return kept.unflatten(-1, (queries, distances - step)).narrow(-1, 0, distances - step * (queries - 1))


def average_values(
    copies: Copies,
    queries: tuple[Tensor, Tensor],
    attended: Tensor,
    positions: Tensor,
    mask: Tensor,
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """Computes attention over the frames of past and chunks and over the copies of each window.

    Args:
        copies: layout of the frames, of several windows.
        queries: queries `(B, heads, n (C + R), d_head)` for keys and for distances.
        attended: keys and values `(B, past + n (C + R), 2, heads, d_head)`.
        positions: projected sinusoids `(heads, d_head, distances)` for `G C + R` queries and `R` more keys than a group
            sees, divided by the scale.
        mask: mask from `copy_masks`.
        dropout: dropout of the weights.

    Returns:
        `(B, n (C + R), heads, d_head)`.
    """
    chunks, right = copies.split(attended)
    # Heads before frames: (B N, heads, K, d_head) and (B N, heads, G, R, d_head).
    key, value = copies.group_keys(chunks).flatten(0, 1).permute(2, 0, 3, 1, 4).unbind()
    own_key, own_value = copies.grouped(right).permute(3, 0, 4, 1, 2, 5).unbind()
    content, distance = (copies.grouped(copies.by_window(q.transpose(1, 2))).permute(0, 3, 1, 2, 4) for q in queries)
    bias = relative_shift((distance.flatten(2, 3) @ positions).unflatten(2, distance.shape[2:4]))
    seen = key.shape[2]
    bias_seen = relative_shift(bias.transpose(2, 3), copies.chunk).transpose(2, 3)[..., :seen]
    scores = torch.cat(
        [
            (content.flatten(2, 3) @ key.transpose(2, 3)).unflatten(2, content.shape[2:4]) + bias_seen,
            content @ own_key.transpose(3, 4) + bias.narrow(-1, seen, copies.right),
        ],
        dim=-1,
    )
    rows = mask.expand(len(attended), *mask.shape[1:]).flatten(0, 1)
    weights = dropout(scores.masked_fill(~rows, FINITE_MASKED).softmax(-1))
    weights, own = weights.split([seen, copies.right], dim=-1)
    context = (weights.flatten(2, 3) @ value).unflatten(2, content.shape[2:4]) + own @ own_value
    windows = context.permute(0, 2, 3, 1, 4).unflatten(0, (len(attended), -1)).flatten(1, 2)
    return copies.in_order(windows.narrow(1, 0, copies.num_windows))
