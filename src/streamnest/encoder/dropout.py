"""Dropout that does not dominate a training step on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Inverted dropout from 16 random bits an element.

    PyTorch draws one 64-bit number an element, from one thread, on a CPU; four elements from one such number take a
    quarter of the time. The rate is exact to 2^-16. Other devices use PyTorch's own kernel.

    Args:
        rate: probability that an element is zeroed, 0 <= rate < 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes elements at random while training and scales the others up."""
        if not self.training or self.rate == 0.0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.rate)
        return x * self._mask(x)

    def _mask(self, x: Tensor) -> Tensor:
        dropped = round(self.rate * 2**16)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= dropped - 2**15
        return keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))
