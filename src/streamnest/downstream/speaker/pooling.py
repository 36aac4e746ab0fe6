"""Statistics pooling: mean and standard deviation over time, offline and incremental."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Keeps the gradient of the square root finite if all frames are equal.
_FLOOR = 1e-5


class Moments(NamedTuple):
    """Number of frames so far `(B,)`, their mean and their sum of squared deviations, `(B, d)` each."""

    num_frames: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, frames: Tensor, valid: Tensor) -> Moments:
        """Computes the moments of the first `valid` `(B,)` frames of each row of `(B, T, d)`."""
        counted = (torch.arange(frames.shape[1], device=frames.device) < valid[:, None])[..., None]
        count = valid.to(frames)
        mean = (frames * counted).sum(1) / count.clamp_min(1)[:, None]
        squares = ((frames - mean[:, None]).square() * counted).sum(1)
        return cls(count, mean, squares)

    def __add__(self, other: object) -> Moments:
        """Merges the moments of two parts (Chan et al. 1979), which is numerically stable for streams of any length."""
        if not isinstance(other, Moments):
            return NotImplemented
        count = self.num_frames + other.num_frames
        share = (other.num_frames / count.clamp_min(1))[:, None]
        step = other.mean - self.mean
        squares = self.squares + other.squares + step.square() * self.num_frames[:, None] * share
        return Moments(count, self.mean + step * share, squares)

    def statistics(self) -> Tensor:
        """Returns mean and standard deviation, `(B, 2 d)`."""
        variance = self.squares / self.num_frames.clamp_min(1)[:, None]
        return torch.cat([self.mean, (variance + _FLOOR).sqrt()], -1)
