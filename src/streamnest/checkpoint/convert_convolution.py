"""Converts weights of convolution modules between symmetric and causal kernels, and from batch to layer norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamnest.encoder.convolution import ConvolutionModule
from streamnest.errors import UserError

FUTURE_TAPS = ("dropped", "current")
BATCH_NORMS = ("standardized", "folded")
_EPSILON = 1e-5


@dataclass(frozen=True)
class Conversion:
    """Options of the conversion of a convolution module; `docs/TRANSFER.md` explains the defaults.

    Attributes:
        future_taps: future taps of a symmetric kernel that becomes causal: "dropped", or "current" to add their sum to
            the current tap, which preserves the response to a constant input.
        batch_norm: parts of a batch norm that are folded into the depthwise convolution when it becomes a layer norm:
            "standardized" folds its statistics, so that each channel has mean 0 and variance 1, "folded" its affine
            weights as well. The weights of the layer norm then restore the mean and variance of each channel.
    """

    future_taps: str = "dropped"
    batch_norm: str = "standardized"

    def __post_init__(self) -> None:
        if self.future_taps not in FUTURE_TAPS or self.batch_norm not in BATCH_NORMS:
            raise UserError(f"{self} is unknown: choose from {', '.join(FUTURE_TAPS)} and {', '.join(BATCH_NORMS)}")


def place_kernel(kernel: Tensor, past: int, size: int, new_past: int, future_taps: str = "dropped") -> Tensor:
    """Copies taps to another kernel, aligned at the current frame: `(C, 1, K)` -> `(C, 1, size)`.

    Args:
        kernel: weights, oldest frame first.
        past: number of taps before the current one.
        size: number of taps of the new kernel.
        new_past: number of its taps before the current one; taps without a counterpart are zero.
        future_taps: "dropped" or "current", for taps that are later than the last one of the new kernel.
    """
    new = kernel.new_zeros(*kernel.shape[:-1], size)
    shift = new_past - past
    first, last = max(0, -shift), min(kernel.shape[-1], size - shift)
    new[..., first + shift : last + shift] = kernel[..., first:last]
    if future_taps == "current":
        new[..., new_past] += kernel[..., last:].sum(-1)
    return new


def convert(
    state: dict[str, Tensor], past: int, module: ConvolutionModule, how: Conversion
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Converts the weights of a convolution module to another kind of the same width.

    Args:
        state: weights by name.
        past: number of taps of its kernel before the current one.
        module: module of the new kind.
        how: options.

    Returns:
        The weights of the new kind that follow from `state`, and the reason for each one that was changed.
    """
    state, reasons = dict(state), {}
    kernel = state["depthwise.weight"]
    size, new_past = module.depthwise.kernel_size[0], module.past
    if (kernel.shape[-1], past) != (size, new_past):
        state["depthwise.weight"] = place_kernel(kernel, past, size, new_past, how.future_taps)
        reasons["depthwise.weight"] = _kernel_reason(kernel.shape[-1], past, size, new_past, how.future_taps)
    if "norm.running_var" in state and isinstance(module.norm, nn.LayerNorm):
        changed = _layer_norm(state, how.batch_norm)
        state |= changed
        for name in changed:
            reasons[name] = "; ".join(filter(None, [reasons.get(name), _norm_reason(name, how.batch_norm)]))
    return state, reasons


def _layer_norm(state: dict[str, Tensor], batch_norm: str) -> dict[str, Tensor]:
    """Approximates a batch norm by a layer norm, using running statistics only.

    A layer norm subtracts the mean m and divides by the deviation s over the channels of one frame. If they are assumed
    constant, `g (x - m) / s + h` has the channel means and deviations of the batch norm.
    """
    weight, bias = state["norm.weight"], state["norm.bias"]
    mean, variance = state["norm.running_mean"], state["norm.running_var"] + _EPSILON
    scale, target = variance.rsqrt(), torch.zeros_like(mean)
    if batch_norm == "folded":
        scale, target = scale * weight, bias
    changed = {"depthwise.weight": state["depthwise.weight"] * scale[:, None, None]}
    mean, variance = mean * scale, variance * scale.square()
    if "depthwise.bias" in state:
        changed["depthwise.bias"] = state["depthwise.bias"] * scale + target - mean
        mean = target
    center = mean.mean()
    spread = ((variance + mean.square()).mean() - center.square()).clamp_min(_EPSILON).sqrt()
    # The kernel contains the gain of folded channels and its sign.
    gain = spread.expand_as(weight) if batch_norm == "folded" else spread * weight
    changed["norm.weight"], changed["norm.bias"] = gain, bias - gain * (mean - center) / spread
    return changed


def _kernel_reason(size: int, past: int, new_size: int, new_past: int, future_taps: str) -> str:
    future, new_future = size - 1 - past, new_size - 1 - new_past
    parts = [f"kernel of {past} + 1 + {future} taps (past, current, future) to {new_past} + 1 + {new_future}"]
    if new_past != past:
        parts.append(
            f"{new_past - past} older taps are zero" if new_past > past else f"{past - new_past} oldest left out"
        )
    if new_future != future:
        lost = "left out" if future_taps == "dropped" else "added to the current tap"
        more = new_future - future
        parts.append(f"{more} future taps are zero" if more > 0 else f"{-more} future taps {lost}")
    return ", ".join(parts)


def _norm_reason(name: str, batch_norm: str) -> str:
    if name.startswith("depthwise"):
        return "batch norm folded in" if batch_norm == "folded" else "statistics of the batch norm folded in"
    return "batch norm to layer norm with the same channel means and variances, an approximation"
