"""One Conformer block: half feed-forward, attention, convolution, half feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from streamnest.encoder.attention import AttentionState, RelativeAttention, hold_back
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.dropout import Dropout, drop
from streamnest.encoder.parts import Part, as_it_is, at_hand


class LayerState(NamedTuple):
    """What a block remembers of its past.

    Attributes:
        attention: of the attention module.
        convolution: `(B, past, d)`, of the convolution module.
        waiting: `(B, lag, d)` where frames wait for their future, else empty.
    """

    attention: AttentionState
    convolution: Tensor
    waiting: tuple[Tensor, ...] = ()


class _FeedForwardParts(NamedTuple):
    expand: Part
    draw: Part
    weight: Tensor
    bias: Tensor | None


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear: `(B, T, d)` -> `(B, T, d)`."""

    def __init__(self, d_model: int, d_hidden: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_hidden, bias=bias)
        self.contract = nn.Linear(d_hidden, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, parts: _FeedForwardParts | None = None) -> Tensor:
        """Transforms each frame by itself; `parts` come from `at_hand`."""
        expand, draw, weight, bias = parts or self._parts(as_it_is)
        hidden = expand(x)
        keep, scale = draw(hidden)
        if torch.is_grad_enabled():
            out: Tensor = _Contract.apply(hidden, keep, scale, weight, bias)
            return out
        return _contract(hidden, keep, scale, weight, bias)

    def at_hand(self) -> Part:
        """`forward` with its parts at hand."""
        return partial(self.forward, parts=self._parts(at_hand))

    def _parts(self, get: Callable[[nn.Module], Part]) -> _FeedForwardParts:
        return _FeedForwardParts(get(self.expand), self.dropout.draw, self.contract.weight, self.contract.bias)


def _contract(hidden: Tensor, keep: Tensor | None, scale: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(drop(F.silu(hidden), keep, scale), weight, bias)


class _Contract(Function):
    """`_contract`, remembering `hidden` alone of its three largest tensors; the others are cheap to compute again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, keep: Tensor | None, scale: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(hidden, keep, weight)
        ctx.scale, ctx.has_bias = scale, bias is not None
        return _contract(hidden, keep, scale, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, keep, weight = ctx.saved_tensors
        active = drop(F.silu(hidden), keep, ctx.scale).flatten(0, -2)
        rows = gradient.flatten(0, -2)
        # The backward pass runs outside autocast.
        inner = drop(gradient @ weight.to(gradient.dtype), keep, ctx.scale)
        bias = rows.sum(0) if ctx.has_bias else None
        return torch.ops.aten.silu_backward(inner, hidden), None, None, rows.t() @ active, bias


class LayerParts(NamedTuple):
    """What a block calls, in turn."""

    norm_in: Part
    feed_forward_in: Part
    norm_attention: Part
    attention: Part
    norm_convolution: Part
    convolution: Part
    norm_ff_out: Part
    feed_forward_out: Part
    norm_out: Part
    dropout: Part


class ConformerLayer(nn.Module):
    """The block of Gulati et al. 2020 with pre-norm residuals, `(B, T, d)` -> `(B, T, d)`; stride 1.

    Args:
        d_model: width.
        d_hidden: width inside the feed-forward modules.
        attention: the attention module.
        convolution: the convolution module.
        dropout: of each residual branch and inside the feed-forward modules.
        bias: of the feed-forward modules.
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        attention: RelativeAttention,
        convolution: ConvolutionModule,
        dropout: float,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm_in, self.feed_forward_in = nn.LayerNorm(d_model), FeedForward(d_model, d_hidden, dropout, bias)
        self.norm_attention, self.attention = nn.LayerNorm(d_model), attention
        self.norm_convolution, self.convolution = nn.LayerNorm(d_model), convolution
        self.norm_ff_out, self.feed_forward_out = nn.LayerNorm(d_model), FeedForward(d_model, d_hidden, dropout, bias)
        self.norm_out = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        valid: Tensor | None,
        state: LayerState | None = None,
        parts: LayerParts | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Runs the block; see `RelativeAttention` and `ConvolutionModule` for the arguments, `parts` for the last one.

        Where frames wait for their future, outputs are those of the frames that waited longest, and so is `valid`.
        """
        part = parts or self.parts()
        before = (None, None, ()) if state is None else state
        x = torch.add(x, part.dropout(part.feed_forward_in(part.norm_in(x))), alpha=0.5)
        heard, attention = part.attention(part.norm_attention(x), positions, mask, before[0])
        x, waiting = hold_back(x, before[2], dim=1)
        x = x + part.dropout(heard)
        local, convolution = part.convolution(part.norm_convolution(x), valid, before[1])
        x = x + part.dropout(local)
        x = torch.add(x, part.dropout(part.feed_forward_out(part.norm_ff_out(x))), alpha=0.5)
        return part.norm_out(x), LayerState(attention, convolution, waiting)

    def parts(self, get: Callable[[nn.Module], Part] = as_it_is) -> LayerParts:
        """What the block calls, as it is or `at_hand`."""
        return LayerParts(*(get(getattr(self, name)) for name in LayerParts._fields))
