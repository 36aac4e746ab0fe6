"""Multi-head self-attention with relative positions and an explicit cache."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.encoder.copies import FINITE_MASKED, Copies, average_values, relative_shift
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.windows import Windows


class AttentionState(NamedTuple):
    """Keys and values of the past, `(B, left + lag, 2, heads, d_head)`; the encoder masks entries not filled yet.

    Time comes before heads, so that the past of one stream is contiguous in memory and a step copies it as one piece.
    If a layer waits for `lag` frames of future, `queries` holds the queries of the waiting frames,
    `(B, heads, lag, d_head)`; otherwise it is empty.
    """

    past: Tensor
    queries: tuple[Tensor, ...] = ()


def hold_back(x: Tensor, waiting: tuple[Tensor, ...], dim: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Delays frames: appends new frames to the waiting ones and releases as many of the oldest as were appended.

    Returns:
        The released frames and the frames that wait now.
    """
    if not waiting:
        return x, ()
    count = x.shape[dim]
    x = torch.cat([waiting[0], x], dim=dim)
    return x.narrow(dim, 0, count), (x.narrow(dim, count, x.shape[dim] - count),)


@functools.lru_cache(maxsize=16)
def _sinusoids(first: int, last: int, d_model: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the table outlives this call and may be used in training later
        distance = torch.arange(first, last - 1, -1, device=device, dtype=torch.float32)
        rate = torch.exp(
            torch.arange(0, d_model, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / d_model)
        )
        angle = distance[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


def relative_positions(queries: int, keys: int, d_model: int, like: Tensor, lag: int = 0) -> Tensor:
    """Sinusoids of the distances `keys - 1` (far past) to `-(queries - 1)` (future): `(queries + keys - 1, d_model)`.

    Sine on even, cosine on odd channels, base 10000 (Dai et al. 2019, "Transformer-XL", appendix B). If the keys end
    `lag` frames after the last query, all distances are smaller by `lag`. The table is cached: do not modify it.
    """
    return _sinusoids(keys - 1 - lag, -(queries - 1) - lag, d_model, like.device, like.dtype)


class RelativeAttention(nn.Module):
    """Relative-position attention of Transformer-XL as used in Conformer, `(B, T, d)` -> `(B, T, d)`.

    `score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(d_head)`. Stride 1; the mask determines the look-ahead.

    Args:
        d_model: width.
        num_heads: number of heads, a divisor of `d_model`.
        dropout: dropout rate of the attention weights.
        bias: use biases in the projections.
    """

    # PyTorch returns zeros for a row masked everywhere; exported graphs would return NaN and need a finite score.
    masked_score = float("-inf")

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.d_head, self.dropout = num_heads, d_model // num_heads, Dropout(dropout)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, self.d_head))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, self.d_head))
        # At most one table; what it was computed from, and the table. Shallow copies share it.
        self._projected: list[tuple[Tensor, tuple[Any, ...], Tensor]] = []

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        state: AttentionState | None = None,
        windows: Windows | None = None,
        copies: Copies | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """Computes attention.

        Args:
            x: `(B, Tq, d)`.
            positions: `relative_positions` for Tq queries and Tk keys, `(Tq + Tk - 1, d)`.
            mask: boolean `(B or 1, 1, Tq, Tk)`, True if the query sees the key; None if every query sees every key.
            state: keys and values that precede x, and the waiting queries.
            windows: division of the queries into groups; `positions` and `mask` then belong to one group and its
                window, and the mask is `(B or 1, N, 1, group, keys)`.
            copies: layout of x if the right context of each chunk is encoded again; `copy_masks` makes the mask.

        Returns:
            `(B, Tq, d)`, for the frames released by `hold_back` if frames wait, and the untrimmed next state.
        """
        batch, frames, width = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.num_heads, self.d_head)
        query, attended = qkv.select(2, 0).transpose(1, 2), qkv.narrow(2, 1, 2)
        waiting: tuple[Tensor, ...] = ()
        if state is not None:
            query, waiting = hold_back(query, state.queries, dim=2)
            attended = torch.cat([state.past, attended], dim=1)
        if copies is not None and mask is not None and copies.num_windows > 1:
            context = self._copied_context(query, attended, positions, mask, copies)
        else:
            context = self._context(query, attended, positions, mask, windows)
        return self.out(context.reshape(batch, frames, width)), AttentionState(attended, waiting)

    def _context(
        self, query: Tensor, attended: Tensor, positions: Tensor, mask: Tensor | None, windows: Windows | None
    ) -> Tensor:
        """Averages values: queries `(B, heads, Tq, d_head)`, keys and values `(B, Tk, 2, heads, d_head)`.

        Returns:
            `(B, Tq, heads, d_head)`.
        """
        if windows is not None and mask is not None:
            batch, frames = len(query), query.shape[2]
            # Groups become rows of the batch.
            groups = windows.queries(query.transpose(1, 2)).flatten(0, 1).transpose(1, 2)
            windowed = windows.windows(attended, frames).flatten(0, 1)
            rows = mask.expand(batch, *mask.shape[1:]).flatten(0, 1)
            context = self._context(groups, windowed, positions, rows, None)
            return context.unflatten(0, (batch, -1)).flatten(1, 2).narrow(1, 0, frames)
        key, value = attended.permute(2, 0, 3, 1, 4).unbind()
        scale = 1.0 / math.sqrt(self.d_head)
        projected = self._project_positions(positions)
        bias = relative_shift((query + self.position_bias.unsqueeze(1)) @ projected)
        query = query + self.content_bias.unsqueeze(1)
        if self.training and query.device.type == "cpu":
            context = self._attend(query * scale, key, value, bias, mask)
        else:
            bias = bias if mask is None else torch.where(mask, bias, self.masked_score)
            rate = self.dropout.rate if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate, scale=scale)
        return context.transpose(1, 2)

    def _copied_context(
        self, query: Tensor, attended: Tensor, positions: Tensor, mask: Tensor, copies: Copies
    ) -> Tensor:
        content = (query + self.content_bias.unsqueeze(1)) * (1.0 / math.sqrt(self.d_head))
        queries = content, query + self.position_bias.unsqueeze(1)
        return average_values(copies, queries, attended, self._project_positions(positions), mask, self.dropout)

    def train(self, mode: bool = True) -> RelativeAttention:
        """Also drops the cached table: weights may have changed undetected, as when averaged ones are swapped in."""
        self._projected.clear()
        return super().train(mode)

    def _project_positions(self, positions: Tensor) -> Tensor:
        """Projects the table and divides it by `sqrt(d_head)`: `(heads, d_head, Tq + Tk - 1)`.

        Streaming steps reuse the result: projecting is three quarters of the arithmetic of a step with 70 past frames.
        """
        weight = self.position.weight
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(weight.device.type):
            return self._project(positions)
        # Weights created in inference mode have no version counter and cannot be modified outside of it.
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype)
        cached = self._projected
        if not cached or cached[0][0] is not positions or cached[0][1] != version:
            cached[:] = [(positions, version, self._project(positions))]
        return cached[0][2]

    def _project(self, positions: Tensor) -> Tensor:
        projected = self.position(positions) / math.sqrt(self.d_head)
        return projected.view(-1, self.num_heads, self.d_head).permute(1, 2, 0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Computes the same as PyTorch's function, with a dropout that takes a quarter of the time and memory."""
        scores = query @ key.transpose(2, 3) + bias
        if mask is not None:
            scores = scores.masked_fill_(~mask, FINITE_MASKED)
        return self.dropout(scores.softmax(-1)) @ value
