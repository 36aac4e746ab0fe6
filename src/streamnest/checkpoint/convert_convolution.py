"""Convolution modules of one kind as weights of another: symmetric and causal kernels, batch and layer norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamnest.encoder.convolution import ConvolutionModule
from streamnest.errors import UserError

FUTURE_TAPS = ("dropped", "current")
BATCH_NORMS = ("standardised", "folded")
_EPSILON = 1e-5


@dataclass(frozen=True)
class Conversion:
    """How a convolution module changes its kind; `docs/TRANSFER.md` says why these are the defaults.

    Attributes:
        future_taps: of a symmetric kernel that becomes causal: "dropped", or "current" to add their sum to the current
            tap, which keeps the response to a constant input.
        batch_norm: where it becomes a layer norm, what the depthwise convolution takes over from it: "standardised" its
            statistics, so that each channel has mean 0 and variance 1, "folded" its affine weights as well. Those of
            the layer norm then give each channel the mean and variance it had.
    """

    future_taps: str = "dropped"
    batch_norm: str = "standardised"

    def __post_init__(self) -> None:
        if self.future_taps not in FUTURE_TAPS or self.batch_norm not in BATCH_NORMS:
            raise UserError(f"{self} is unknown: choose of {', '.join(FUTURE_TAPS)} and {', '.join(BATCH_NORMS)}")


def place_kernel(kernel: Tensor, past: int, size: int, new_past: int, future_taps: str = "dropped") -> Tensor:
    """Moves taps to another kernel, aligned at the current frame: `(C, 1, K)` -> `(C, 1, size)`.

    Args:
        kernel: weights, oldest frame first.
        past: taps before the current one.
        size: taps of the new kernel.
        new_past: its taps before the current one; those without a counterpart are zero.
        future_taps: "dropped" or "current", of those later than the new kernel hears.
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
    """Fits the weights of a convolution module to another kind of the same width.

    Args:
        state: its weights, by name.
        past: taps before the current one of its kernel.
        module: the kind to become.
        how: the choices.

    Returns:
        The weights of the other kind as far as they follow from `state`, and why, for each that was changed.
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
    """The weights that make a layer norm of a batch norm, from running statistics alone: an approximation.

    A layer norm divides by the mean m and deviation s over the channels of one frame. With those taken for constant,
    `g (x - m) / s + h` gives each channel the mean and the deviation that the batch norm gave it.
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
    centre = mean.mean()
    spread = ((variance + mean.square()).mean() - centre.square()).clamp_min(_EPSILON).sqrt()
    # Folded channels carry their gain and its sign in the kernel.
    gain = spread.expand_as(weight) if batch_norm == "folded" else spread * weight
    changed["norm.weight"], changed["norm.bias"] = gain, bias - gain * (mean - centre) / spread
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
        return "batch norm folded in" if batch_norm == "folded" else "the batch norm's statistics taken over"
    return "batch norm to layer norm: channel means and variances as its statistics say, an approximation"
