"""Terms of dual mode in pretraining: the objective of the offline branch, and the divergence from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from streamnest.objectives.base import MAX_LOGITS, Objective, PredictionContext, PredictionResult
from streamnest.objectives.selection import selected_frames

# Beginnings of the names of the parts of the loss.
OFFLINE, DIVERGENCE = "offline_", "divergence_"


def dual_weights(weights: Mapping[str, float], offline_weight: float, distillation_weight: float) -> dict[str, float]:
    """Returns the weights above 0 of the parts that dual mode adds to an objective with parts of some `weights`.

    Predictions beyond the receptive field are left out: an offline branch leaves nothing to predict.
    """
    parts = {part: weight for part, weight in weights.items() if part in ("masked", "unmasked")}
    named = {OFFLINE + part: offline_weight * weight for part, weight in parts.items()}
    named |= {DIVERGENCE + part: distillation_weight * weight for part, weight in parts.items()}
    return {name: weight for name, weight in named.items() if weight > 0}


def compare_branches(
    objective: Objective, encoded: Tensor, offline: Tensor, codes: Tensor, context: PredictionContext, parts: set[str]
) -> dict[str, PredictionResult]:
    """Computes the parts of the loss that dual mode adds.

    Args:
        objective: objective with masked prediction.
        encoded: `(B, T', d_model)` of the streaming branch.
        offline: `(B, T', d_model)` of the offline branch, whose predictions are targets without gradients.
        codes: `(B, T', codebooks)`.
        context: masks and lengths of both branches.
        parts: names of the parts, as in `dual_weights`.

    Returns:
        A result for each part; that of a divergence has no correct predictions.
    """
    results = objective(offline, codes, replace(context, receptive_field_end=None))
    chosen = {OFFLINE + part: result for part, result in results.items() if OFFLINE + part in parts}
    for part, selected in objective.selected(context).items():
        if DIVERGENCE + part in parts:
            frames = selected[:, : min(encoded.shape[1], selected.shape[1])]
            chosen[DIVERGENCE + part] = _divergence(objective, encoded, offline, frames, codes)
    return chosen


def _divergence(
    objective: Objective, encoded: Tensor, offline: Tensor, selected: Tensor, codes: Tensor
) -> PredictionResult:
    vectors, targets = selected_frames(encoded, selected), selected_frames(offline, selected)
    scores = objective.num_codebooks * objective.num_classes
    rows = max(1, MAX_LOGITS // (2 * scores))
    pieces = [
        checkpoint(_vector_divergence, objective, *pair, use_reentrant=False)
        for pair in zip(targets.split(rows), vectors.split(rows))
    ]
    nothing = codes.new_zeros((), dtype=torch.float32)
    return PredictionResult(torch.stack(pieces).sum(), nothing, len(vectors), nothing)


def _vector_divergence(objective: Objective, target: Tensor, vectors: Tensor) -> Tensor:
    """Returns the divergence of the code distributions of `(N, d_model)` vectors, mean over codebooks, summed."""
    with torch.no_grad():
        wanted = objective.logits(target).float().log_softmax(-1)
    scores = objective.logits(vectors).float().log_softmax(-1)
    return F.kl_div(scores, wanted, reduction="sum", log_target=True) / scores.shape[-2]
