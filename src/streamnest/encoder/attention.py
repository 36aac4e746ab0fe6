"""Multi-head self-attention with relative positions and an explicit cache."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.encoder.dropout import Dropout

# Far below any score, but finite: a frame of padding, which sees nothing, must not become NaN.
FINITE_MASKED = -30_000.0


class AttentionState(NamedTuple):
    """Keys and values of the past, `(B, heads, left, d_head)` each; unfilled places are masked by the encoder."""

    keys: Tensor
    values: Tensor


def relative_positions(queries: int, keys: int, d_model: int, like: Tensor) -> Tensor:
    """Sinusoids of the distances `keys - 1` (far past) to `-(queries - 1)` (future): `(queries + keys - 1, d_model)`.

    Sine on even, cosine on odd channels, base 10000 (Dai et al. 2019, "Transformer-XL", appendix B).
    """
    distance = torch.arange(keys - 1, -queries, -1, device=like.device, dtype=torch.float32)
    rate = torch.exp(
        torch.arange(0, d_model, 2, device=like.device, dtype=torch.float32) * (-math.log(10000.0) / d_model)
    )
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(like.dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Column `Tq - 1 - i + j` of row i becomes column j: `(B, H, Tq, Tq + Tk - 1)` -> `(B, H, Tq, Tk)`."""
    batch, heads, queries, distances = scores.shape
    padded = F.pad(scores, (1, 0)).view(batch, heads, distances + 1, queries)
    return padded[:, :, 1:].reshape(batch, heads, queries, distances)[..., : distances - queries + 1]


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

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, state: AttentionState | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Attends.

        Args:
            x: `(B, Tq, d)`.
            positions: `relative_positions` for Tq queries and Tk keys, `(Tq + Tk - 1, d)`.
            mask: boolean `(B or 1, 1, Tq, Tk)`, True where a query may look; None is everywhere.
            state: keys and values that precede x; the last Tk - Tq of them are used.

        Returns:
            `(B, Tq, d)` and all keys and values seen here, for the caller to trim.
        """
        batch, frames, width = x.shape
        query, key, value = self.qkv(x).view(batch, frames, 3, self.num_heads, self.d_head).permute(2, 0, 3, 1, 4)
        if state is not None:
            key = torch.cat([state.keys, key], dim=2)
            value = torch.cat([state.values, value], dim=2)
        place = self.position(positions).view(-1, self.num_heads, self.d_head).permute(1, 2, 0)
        scale = 1.0 / math.sqrt(self.d_head)
        bias = relative_shift(((query + self.position_bias[:, None]) * scale) @ place)
        query = query + self.content_bias[:, None]
        if self.training and x.device.type == "cpu":
            context = self._attend(query * scale, key, value, bias, mask)
        else:
            bias = bias if mask is None else bias.masked_fill(~mask, self.masked_score)
            drop = self.dropout.rate if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop, scale=scale)
        return self.out(context.transpose(1, 2).reshape(batch, frames, width)), AttentionState(key, value)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """What PyTorch's own function computes, with a dropout that costs a quarter and remembers a quarter."""
        scores = query @ key.transpose(2, 3) + bias
        if mask is not None:
            scores = scores.masked_fill_(~mask, FINITE_MASKED)
        return self.dropout(scores.softmax(-1)) @ value
