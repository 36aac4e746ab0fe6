"""Checks waveform samples from callers, with one rule for streaming sessions and the offline forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamnest.errors import UserError

# A thousand times full scale: far above recordings in [-1, 1], below 16-bit numbers stored as floats, and far below
# 1e16, where the float32 power spectrum overflows.
LOUDEST = 1000.0
_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def as_samples(audio: Any, ndim: int = 1) -> Tensor:
    """Converts samples to a floating-point tensor.

    Args:
        audio: tensor, NumPy array or array-like. Floating-point numbers are in [-1, 1]; int16 and int32 are divided by
            their full scale.
        ndim: required dimensions: 1 for `(n,)`, 2 for `(B, N)`.

    Returns:
        The samples as a tensor; the given tensor itself if it is floating-point already.

    Raises:
        UserError: for other types and shapes, and for samples that are not finite or exceed `LOUDEST`.
    """
    samples = audio if isinstance(audio, Tensor) else _tensor_of(audio)
    if samples.is_nested or samples.layout != torch.strided:
        layout = "nested" if samples.is_nested else str(samples.layout).removeprefix("torch.")
        raise _refused(f"the layout is {layout}", ndim)
    if samples.ndim != ndim:
        raise _refused(f"the shape is {tuple(samples.shape)}", ndim)
    if samples.dtype in _FULL_SCALE:
        # float32 holds every 16-bit number, but not every 32-bit one.
        exact = torch.float32 if samples.dtype == torch.int16 else torch.float64
        return samples.to(exact) / _FULL_SCALE[samples.dtype]
    if samples.dtype not in _FLOATS:
        raise _refused(f"the type is {str(samples.dtype).removeprefix('torch.')}", ndim)
    _check_range(samples, ndim)
    return samples


def _check_range(samples: Tensor, ndim: int) -> None:
    # Traced graphs and meta tensors have no values to check.
    if not samples.numel() or samples.is_meta or torch.compiler.is_compiling():
        return
    low, high = (bound.item() for bound in torch.aminmax(samples.detach()))
    if not (low >= -LOUDEST and high <= LOUDEST):  # also true for NaN, which makes both bounds NaN
        if not np.isfinite([low, high]).all():
            raise _refused("some are not finite", ndim)
        raise _refused(f"the largest is {max(-low, high):.4g}; divide 16-bit numbers by 32768", ndim)


def _tensor_of(audio: Any) -> Tensor:
    """Converts an array-like to a tensor; a copy, because torch rejects some byte orders and negative strides."""
    try:
        array = np.asarray(audio)
        kind = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(array, kind))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise _refused(f"this {type(audio).__name__} does not contain numbers only", 1) from None


def _refused(reason: str, ndim: int) -> UserError:
    shape = "(n,)" if ndim == 1 else "(B, N)"
    return UserError(
        f"samples must be finite floating-point numbers in [-1, 1], int16 or int32, of shape {shape}: {reason}"
    )
