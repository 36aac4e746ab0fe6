"""Selection of frames by index lists that are made on the host, so that no step waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device without waiting for it; returns a tensor that is there already."""
    if x.device == device:
        return x
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def selected_frames(x: Tensor, selected: Tensor) -> Tensor:
    """Selects frames of all rows, as `x[selected]` does: `(B, T, ...)` -> `(N, ...)`.

    A boolean mask on the device would make the host wait for the number of its frames.

    Args:
        x: values on any device.
        selected: boolean `(B, t)` on the host, `t <= T`.
    """
    rows, times = selected.nonzero().unbind(1)
    return frames_at(x, rows * x.shape[1] + times)


def frames_at(x: Tensor, index: Tensor) -> Tensor:
    """Selects frames of `(B, T, ...)` by numbers `row * T + time` `(N,)` on the host: `(N, ...)`."""
    return x.flatten(0, 1).index_select(0, to_device(index, x.device))
