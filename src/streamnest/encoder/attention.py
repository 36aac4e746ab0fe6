"""Multi-head self-attention with relative positions and an explicit cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.encoder.dropout import Dropout
from streamnest.encoder.parts import Part, as_it_is, at_hand

# Far below any score, but finite: a frame of padding, which sees nothing, must not become NaN.
FINITE_MASKED = -30_000.0


class AttentionState(NamedTuple):
    """Keys and values of the past, `(B, left + lag, 2, heads, d_head)`; unfilled places are masked by the encoder.

    Time comes before heads, so that the past of one stream lies in one piece and a step copies it as such. Where a
    layer waits for `lag` frames of future, `queries` holds those of the frames that wait, `(B, heads, lag, d_head)`;
    else it is empty.
    """

    past: Tensor
    queries: tuple[Tensor, ...] = ()


def hold_back(x: Tensor, waiting: tuple[Tensor, ...], dim: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Puts new frames behind those that wait; returns as many of the oldest as came in, and those that wait now."""
    if not waiting:
        return x, ()
    count = x.shape[dim]
    x = torch.cat([waiting[0], x], dim=dim)
    return x.narrow(dim, 0, count), (x.narrow(dim, count, x.shape[dim] - count),)


@functools.lru_cache(maxsize=16)
def _sinusoids(first: int, last: int, d_model: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the table outlives the call, and training may be next to use it
        distance = torch.arange(first, last - 1, -1, device=device, dtype=torch.float32)
        rate = torch.exp(
            torch.arange(0, d_model, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / d_model)
        )
        angle = distance[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


def relative_positions(queries: int, keys: int, d_model: int, like: Tensor, lag: int = 0) -> Tensor:
    """Sinusoids of the distances `keys - 1` (far past) to `-(queries - 1)` (future): `(queries + keys - 1, d_model)`.

    Sine on even, cosine on odd channels, base 10000 (Dai et al. 2019, "Transformer-XL", appendix B). Where keys end
    `lag` frames after the last query, all distances are less by that. The table is kept: do not write to it.
    """
    return _sinusoids(keys - 1 - lag, -(queries - 1) - lag, d_model, like.device, like.dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Column `Tq - 1 - i + j` of row i becomes column j: `(B, H, Tq, Tq + Tk - 1)` -> `(B, H, Tq, Tk)`."""
    queries, distances = scores.shape[2:]
    if queries == 1:
        return scores
    # In one row after the other, what row i keeps begins one column less than a whole row after what row i - 1 keeps.
    kept = scores.flatten(2).narrow(2, queries - 1, queries * (distances - 1))
    return kept.unflatten(2, (queries, distances - 1)).narrow(3, 0, distances - queries + 1)


class _AttentionParts(NamedTuple):
    qkv: Part
    out: Part
    content_bias: Tensor
    position_bias: Tensor
    position: Tensor


class RelativeAttention(nn.Module):
    """Relative-position attention of Transformer-XL as Conformer uses it, `(B, T, d)` -> `(B, T, d)`.

    `score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(d_head)`. Stride 1; look-ahead: what the mask allows.

    Args:
        d_model: width.
        num_heads: divides `d_model`.
        dropout: of the attention weights.
        bias: of the projections.
    """

    # PyTorch gives zeros where a row has no other score; exported graphs, which would give NaN, take a finite one.
    masked_score = float("-inf")

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.d_head, self.dropout = num_heads, d_model // num_heads, Dropout(dropout)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, self.d_head))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, self.d_head))
        self._kept: tuple[Tensor, tuple[Any, ...], Tensor] | None = None

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        state: AttentionState | None = None,
        parts: _AttentionParts | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """Attends.

        Args:
            x: `(B, Tq, d)`.
            positions: `relative_positions` for Tq queries and Tk keys, `(Tq + Tk - 1, d)`.
            mask: boolean `(B or 1, 1, Tq, Tk)`, True where a query may look; None is everywhere.
            state: keys and values that precede x, and the queries that wait for it.
            parts: from `at_hand`.

        Returns:
            `(B, Tq, d)`, of the frames that waited longest where some do, and all keys and values seen here, for the
            caller to trim.
        """
        part = parts or self._parts(as_it_is)
        batch, frames, width = x.shape
        qkv = part.qkv(x).view(batch, frames, 3, self.num_heads, self.d_head)
        query, heard = qkv.select(2, 0).transpose(1, 2), qkv.narrow(2, 1, 2)
        waiting: tuple[Tensor, ...] = ()
        if state is not None:
            query, waiting = hold_back(query, state.queries, dim=2)
            heard = torch.cat([state.past, heard], dim=1)
        key, value = heard.permute(2, 0, 3, 1, 4).unbind()
        scale = 1.0 / math.sqrt(self.d_head)
        place = self._place(positions, part.position)
        bias = relative_shift((query + part.position_bias.unsqueeze(1)) @ place)
        query = query + part.content_bias.unsqueeze(1)
        if self.training and x.device.type == "cpu":
            context = self._attend(query * scale, key, value, bias, mask)
        else:
            bias = bias if mask is None else torch.where(mask, bias, self.masked_score)
            drop = self.dropout.rate if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop, scale=scale)
        return part.out(context.transpose(1, 2).reshape(batch, frames, width)), AttentionState(heard, waiting)

    def at_hand(self) -> Part:
        """`forward` with its parts at hand."""
        return partial(self.forward, parts=self._parts(at_hand))

    def _parts(self, get: Callable[[nn.Module], Part]) -> _AttentionParts:
        biases = self.content_bias, self.position_bias
        return _AttentionParts(get(self.qkv), get(self.out), *biases, self.position.weight)

    def train(self, mode: bool = True) -> RelativeAttention:
        """Forgets the kept table too: weights may have been replaced without a trace, as averaged ones are."""
        self._kept = None
        return super().train(mode)

    def _place(self, positions: Tensor, weight: Tensor) -> Tensor:
        """The projected table over `sqrt(d_head)`, `(heads, d_head, Tq + Tk - 1)`; kept where streams ask for it again.

        Projecting it anew would be three quarters of the arithmetic of a streaming step with 70 frames of past.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(weight.device.type):
            return self._project(positions)
        # Weights that were made in inference mode are never written to and count no versions.
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype)
        if self._kept is None or self._kept[0] is not positions or self._kept[1] != version:
            self._kept = positions, version, self._project(positions)
        return self._kept[2]

    def _project(self, positions: Tensor) -> Tensor:
        place = self.position(positions) / math.sqrt(self.d_head)
        return place.view(-1, self.num_heads, self.d_head).permute(1, 2, 0)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """What PyTorch's own function computes, with a dropout that costs a quarter and remembers a quarter."""
        scores = query @ key.transpose(2, 3) + bias
        if mask is not None:
            scores = scores.masked_fill_(~mask, FINITE_MASKED)
        return self.dropout(scores.softmax(-1)) @ value
