"""Losses of speaker activity, with or without permutation invariance."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from streamnest.config.tasks import DiarizationConfig
from streamnest.errors import UserError

# All assignments are compared; there are 40,320 of 8 speakers and ten times as many of 9.
MAX_PERMUTED = 8


class ActivityLoss(NamedTuple):
    """Loss of each row in nats, summed over frames and speakers `(B,)`, and the speaker of each column `(B, S)`."""

    nats: Tensor
    order: Tensor


def activity_loss(logits: Tensor, active: Tensor, valid: Tensor, order: str = DiarizationConfig.order) -> ActivityLoss:
    """Computes the binary cross entropy of speaker activity.

    Args:
        logits: `(B, T, S)`.
        active: `(B, T, S)` boolean, speakers in the order of arrival; silent columns come last.
        valid: `(B,)` number of valid frames.
        order: "pit" takes the assignment of speakers to columns with the smallest loss, one for each row (Fujita et al.
            2019). "arrival" sorts columns by the first turn of their speaker (Park et al. 2024, Sortformer).

    Raises:
        UserError: for another order.
    """
    if order not in ("pit", "arrival"):
        raise UserError(f"task.order={order!r}: choose pit or arrival")
    costs = pairwise_costs(logits, active, valid)
    speakers = logits.shape[-1]
    orders = list(permutations(range(speakers))) if order == "pit" else [tuple(range(speakers))]
    candidates = torch.tensor(orders, device=logits.device)
    # (B, P): loss of each assignment.
    totals = costs[:, torch.arange(speakers, device=logits.device), candidates].sum(-1)
    nats, best = totals.min(-1)
    return ActivityLoss(nats, candidates[best])


def pairwise_costs(logits: Tensor, active: Tensor, valid: Tensor) -> Tensor:
    """Returns the loss of column i for speaker j, in nats summed over valid frames: `(B, S, S)` float32 or wider."""
    counted = torch.arange(logits.shape[1], device=logits.device) < valid[:, None]
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    logits = logits * counted[..., None]
    silent = (F.softplus(logits) * counted[..., None]).sum(1)
    # BCE with logits x and target y is softplus(x) - x y: one product for all pairs.
    return silent[..., None] - logits.transpose(1, 2) @ active.to(logits.dtype)
