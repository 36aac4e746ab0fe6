"""The CTC loss, and losses on its distributions that regularize training; all are sums in nats."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from streamnest.downstream.asr.vocabulary import BLANK


def frames_needed(target: list[int]) -> int:
    """Returns the smallest number of frames for some tokens; repeated tokens need a blank between them."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]) -> tuple[Tensor, Tensor]:
    """Returns the sum of the CTC loss over usable rows, and their number of tokens, both 0-dim.

    Args:
        log_probs: `(B, T, V)`.
        lengths: `(B,)` number of valid frames.
        targets: tokens of each row.
        usable: True for rows that count.
    """
    rows = [row for row, good in enumerate(usable) if good]
    if not rows:
        return log_probs.sum() * 0.0, log_probs.new_zeros(())
    sizes = torch.tensor([len(targets[row]) for row in rows], device=log_probs.device)
    flat = torch.tensor([token for row in rows for token in targets[row]], device=log_probs.device)
    chosen = log_probs[rows].transpose(0, 1)
    loss = F.ctc_loss(chosen, flat, lengths[rows], sizes, blank=BLANK, reduction="sum")
    return loss, sizes.sum().float()


def divergence(target: Tensor, log_probs: Tensor) -> Tensor:
    """Returns the Kullback-Leibler divergence of `log_probs` from fixed targets, summed over frames, 0-dim.

    Args:
        target: log-probabilities `(N, V)`; they get no gradient.
        log_probs: log-probabilities `(N, V)`.
    """
    return F.kl_div(log_probs, target.detach(), reduction="sum", log_target=True)


def aligned_divergence(target: Tensor, log_probs: Tensor, lengths: Tensor, usable: Tensor) -> Tensor:
    """Returns the divergence of frames from the fixed targets with the same number, summed over usable rows, 0-dim.

    Args:
        target: log-probabilities `(B, T, V)`; they get no gradient.
        log_probs: log-probabilities `(B, T2, V)`.
        lengths: `(B,)` number of frames that count, at least in part.
        usable: `(B,)` True for rows that count.
    """
    count = min(target.shape[1], log_probs.shape[1])
    inside = (torch.arange(count, device=lengths.device) < lengths[:, None]) & usable[:, None]
    return divergence(target[:, :count][inside], log_probs[:, :count][inside])


def consistency_loss(one: Tensor, other: Tensor) -> Tensor:
    """Returns the mean of both divergences between two views of the same frames, summed over frames, 0-dim.

    Each view is the fixed target of the other (Yao et al. 2024, "CR-CTC", section 3.2).

    Args:
        one: log-probabilities of the first view `(N, V)`.
        other: log-probabilities of the second view `(N, V)`.
    """
    return 0.5 * (divergence(one, other) + divergence(other, one))


def smoothing_loss(log_probs: Tensor) -> Tensor:
    """Returns the divergence of `(N, V)` log-probabilities from the uniform distribution, summed over frames, 0-dim."""
    return -(log_probs.mean(-1) + math.log(log_probs.shape[-1])).sum()
