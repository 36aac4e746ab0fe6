"""One Conformer layer: half feed-forward, attention, convolution, half feed-forward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from streamnest.encoder.attention import AttentionState, RelativeAttention, hold_back
from streamnest.encoder.compilation import compilable
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.copies import Copies
from streamnest.encoder.dropout import Dropout, drop
from streamnest.encoder.dual_mode import OfflineNorms
from streamnest.encoder.windows import Windows


class LayerState(NamedTuple):
    """State of a layer between streaming steps.

    Attributes:
        attention: state of the attention module.
        convolution: state of the convolution module, `(B, past, d)`.
        waiting: frames that wait for their future, `(B, lag, d)`; empty if none do.
    """

    attention: AttentionState
    convolution: Tensor
    waiting: tuple[Tensor, ...] = ()


class FeedForward(nn.Module):
    """Linear, SiLU, dropout, linear: `(B, T, d)` -> `(B, T, d)`."""

    def __init__(self, d_model: int, d_hidden: int, dropout: float, bias: bool = True) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_hidden, bias=bias)
        self.contract = nn.Linear(d_hidden, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each frame independently."""
        hidden = self.expand(x)
        weight, bias = self.contract.weight, self.contract.bias
        if hidden.device.type != "cpu":
            return F.linear(self.dropout(F.silu(hidden)), weight, bias)
        keep, scale = self.dropout.sample(hidden)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            out: Tensor = _Contract.apply(hidden, keep, scale, weight, bias)
            return out
        return _contract(hidden, keep, scale, weight, bias)


def _contract(hidden: Tensor, keep: Tensor | None, scale: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(drop(F.silu(hidden), keep, scale), weight, bias)


class _Contract(Function):
    """`_contract` that saves only `hidden` of its three largest tensors; the others are cheap to recompute."""

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
        # The backward pass runs outside autocast, so the types must be matched here.
        inner = drop(gradient @ weight.to(gradient.dtype), keep, ctx.scale)
        bias = rows.sum(0) if ctx.has_bias else None
        return torch.ops.aten.silu_backward(inner, hidden), None, None, rows.t() @ active, bias


class ConformerLayer(nn.Module):
    """The Conformer layer of Gulati et al. 2020 with pre-norm residuals, `(B, T, d)` -> `(B, T, d)`; stride 1.

    Args:
        d_model: width.
        d_hidden: width inside the feed-forward modules.
        attention: attention module.
        convolution: convolution module.
        dropout: dropout rate of each residual branch and inside the feed-forward modules.
        bias: use biases in the feed-forward modules.

    Attributes:
        offline_norms: norms of the offline mode; None if both modes share the norms.
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
        self.offline_norms: OfflineNorms | None = None

    @compilable
    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        valid: Tensor | None,
        state: LayerState | None = None,
        windows: Windows | None = None,
        copies: Copies | None = None,
        offline: bool = False,
    ) -> tuple[Tensor, LayerState]:
        """Runs the layer; `RelativeAttention` and `ConvolutionModule` describe the arguments.

        If frames wait for their future, outputs and `valid` belong to the frames released by `hold_back`. With
        `offline`, the norms are `offline_norms` if the layer has them.
        """
        past, before, waiting = (None, None, ()) if state is None else state
        norms: Any = self.offline_norms if offline and self.offline_norms is not None else self
        norm_depthwise = () if norms is self else (norms.norm_depthwise,)
        x = torch.add(x, self.dropout(self.feed_forward_in(norms.norm_in(x))), alpha=0.5)
        context, attention = self.attention(norms.norm_attention(x), positions, mask, past, windows, copies)
        x, waiting = hold_back(x, waiting, dim=1)
        x = x + self.dropout(context)
        local, convolution = self.convolution(norms.norm_convolution(x), valid, before, copies, *norm_depthwise)
        x = x + self.dropout(local)
        x = torch.add(x, self.dropout(self.feed_forward_out(norms.norm_ff_out(x))), alpha=0.5)
        return norms.norm_out(x), LayerState(attention, convolution, waiting)
