"""Signs of life of targets and representation: unigram baseline and effective rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def entropy(counts: Tensor) -> float:
    """Entropy in nats of code counts `(books, classes)`, mean over books."""
    share = counts.double() / counts.double().sum(-1, keepdim=True).clamp_min(1.0)
    return float(-(share * share.clamp_min(1e-30).log()).sum(-1).mean())


def unigram_cross_entropy(train: Tensor, heard: Tensor) -> float:
    """What code frequencies alone would reach: cross entropy in nats of `heard` counts under `train` counts.

    The frequencies are smoothed by a constant; of several constants the one that does best *on the heard codes* is
    taken, so the baseline is if anything too strong.

    Args:
        train: counts of codes in the training set, `(books, classes)`.
        heard: counts of the codes to predict, `(books, classes)`.
    """
    train, heard = train.double(), heard.double()
    share = heard / heard.sum(-1, keepdim=True).clamp_min(1.0)

    def cross_entropy(constant: float) -> float:
        smoothed = train + constant
        return float(-(share * (smoothed / smoothed.sum(-1, keepdim=True)).log()).sum(-1).mean())

    return min(cross_entropy(constant) for constant in _SMOOTHING)


def effective_rank(frames: Tensor) -> float:
    """Effective rank of `(N, d)` frames: exp of the entropy of singular values (RankMe, Garrido et al. 2023)."""
    share = spectrum(frames)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def spectrum(frames: Tensor) -> Tensor:
    """Singular values of `(N, d)` frames around their mean, as shares of their sum, the largest first.

    NaN for frames that are not finite, as those of a run that diverges.
    """
    if not torch.isfinite(frames).all():
        return torch.full((min(frames.shape),), math.nan)
    values = torch.linalg.svdvals(frames.float() - frames.float().mean(0))
    return values / values.sum().clamp_min(1e-12)
