"""Mean and standard deviation of frames over time, at once and as they come."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Keeps the gradient of a square root finite where frames are all alike.
_FLOOR = 1e-5


class Moments(NamedTuple):
    """Of the frames so far: how many were heard `(B,)`, their mean and sum of squared deviations, `(B, d)` each."""

    heard: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, frames: Tensor, valid: Tensor) -> Moments:
        """Of frames `(B, T, d)`, the first `valid` `(B,)` of each row."""
        counted = (torch.arange(frames.shape[1], device=frames.device) < valid[:, None])[..., None]
        count = valid.to(frames)
        mean = (frames * counted).sum(1) / count.clamp_min(1)[:, None]
        squares = ((frames - mean[:, None]).square() * counted).sum(1)
        return cls(count, mean, squares)

    def __add__(self, other: object) -> Moments:
        """Of both (Chan et al. 1979): as exact as of all at once, however long the stream."""
        if not isinstance(other, Moments):
            return NotImplemented
        count = self.heard + other.heard
        share = (other.heard / count.clamp_min(1))[:, None]
        step = other.mean - self.mean
        squares = self.squares + other.squares + step.square() * self.heard[:, None] * share
        return Moments(count, self.mean + step * share, squares)

    def statistics(self) -> Tensor:
        """Mean and standard deviation, `(B, 2 d)`."""
        variance = self.squares / self.heard.clamp_min(1)[:, None]
        return torch.cat([self.mean, (variance + _FLOOR).sqrt()], -1)
