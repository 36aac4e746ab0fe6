"""Collapse diagnostics: code entropy, unigram baseline, effective rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def entropy(counts: Tensor) -> float:
    """Computes the entropy in nats of code counts `(codebooks, classes)`, mean over codebooks."""
    return float(mean_entropy(counts))


def mean_entropy(counts: Tensor) -> Tensor:
    """Computes `entropy` as a tensor, whose value the host does not read."""
    share = counts.double() / counts.double().sum(-1, keepdim=True).clamp_min(1.0)
    return -(share * share.clamp_min(1e-30).log()).sum(-1).mean()


def unigram_cross_entropy(train: Tensor, targets: Tensor) -> float:
    """Computes the unigram baseline: cross entropy in nats of target codes under the training set's code frequencies.

    The frequencies are smoothed by the one of several constants that is best *on the targets themselves*, which makes
    the baseline rather too strong than too weak.

    Args:
        train: counts of codes in the training set, `(codebooks, classes)`.
        targets: counts of the codes to predict, `(codebooks, classes)`.
    """
    train, targets = train.double(), targets.double()
    share = targets / targets.sum(-1, keepdim=True).clamp_min(1.0)

    def cross_entropy(constant: float) -> float:
        smoothed = train + constant
        return float(-(share * (smoothed / smoothed.sum(-1, keepdim=True)).log()).sum(-1).mean())

    return min(cross_entropy(constant) for constant in _SMOOTHING)


def effective_rank(frames: Tensor) -> float:
    """Computes exp of the entropy of the singular values of `(N, d)` frames (RankMe, Garrido et al. 2023)."""
    share = spectrum(frames)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def spectrum(frames: Tensor) -> Tensor:
    """Computes singular values of centered `(N, d)` frames as shares of their sum, largest first.

    NaN for frames that are not finite, as in a diverging run.
    """
    if not torch.isfinite(frames).all():
        return torch.full((min(frames.shape),), math.nan)
    values = torch.linalg.svdvals(frames.float() - frames.float().mean(0))
    return values / values.sum().clamp_min(1e-12)
