"""Prediction of the codes of masked target frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamnest.encoder.config import training_field
from streamnest.errors import UserError
from streamnest.objectives.base import (
    Objective,
    ObjectiveConfig,
    PredictionContext,
    PredictionResult,
    check_frames,
)
from streamnest.objectives.selection import selected_frames
from streamnest.quantizer import count_codes


@dataclass
class MaskedConfig(ObjectiveConfig):
    """Schema of `objective=masked`; see `MaskedPrediction`."""

    mask_threshold: float = 0.8
    unmasked_weight: float = training_field(0.0)


class MaskedPrediction(Objective):
    """Cross entropy on the codes of masked target frames (Chiu et al. 2022), one softmax per codebook.

    A target frame is predicted if more than `mask_threshold` of its feature frames are masked and all of them are
    audio. Heads are evaluated on those frames only. Without any such frame the loss is exactly 0, differentiable and
    never NaN.

    With `unmasked_weight`, target frames without any masked feature frame are predicted as well, as a separate part of
    the loss: codes come from clean audio and the encoder's input is noisy, so this part is denoising.

    Args:
        d_model: width of the encoder.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks.
        mask_threshold: share of masked feature frames; 0.8 requires 4 of 4 or 7 of 8.
        unmasked_weight: weight of the mean loss on unmasked frames; the mean loss on masked frames has weight 1.

    Raises:
        UserError: for a threshold outside [0, 1), a negative weight, or numbers of encoder frames and codes that do not
            match.
    """

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = MaskedConfig.num_codebooks,
        mask_threshold: float = MaskedConfig.mask_threshold,
        unmasked_weight: float = MaskedConfig.unmasked_weight,
    ) -> None:
        super().__init__()
        if not 0.0 <= mask_threshold < 1.0:
            raise UserError(f"objective.mask_threshold={mask_threshold} must be at least 0 and below 1")
        if unmasked_weight < 0.0:
            raise UserError(f"objective.unmasked_weight={unmasked_weight} must be at least 0")
        self.num_classes, self.num_codebooks, self.mask_threshold = num_classes, num_codebooks, mask_threshold
        self.weights = {"masked": 1.0, **({"unmasked": unmasked_weight} if unmasked_weight else {})}
        self.heads = nn.Linear(d_model, num_codebooks * num_classes)
        nn.init.xavier_uniform_(self.heads.weight)

    def select(self, mask: Tensor, lengths: Tensor, stack: int) -> Tensor:
        """Selects masked target frames: masks `(B, T)`, lengths `(B,)` in feature frames -> boolean `(B, T')`."""
        share, whole = _masked_share(mask, lengths, stack)
        return (share > self.mask_threshold) & whole

    def select_unmasked(self, mask: Tensor, lengths: Tensor, stack: int) -> Tensor:
        """Selects whole target frames without any masked feature frame; same arguments and shapes as `select`."""
        share, whole = _masked_share(mask, lengths, stack)
        return (share == 0) & whole

    def logits(self, encoded: Tensor) -> Tensor:
        """Computes scores of all codes: `(..., d_model)` -> `(..., codebooks, classes)`."""
        return self.heads(encoded).unflatten(-1, (self.num_codebooks, -1))

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts masked frames, and unmasked ones if they have a weight; see `Objective.forward`."""
        return {part: self.predict(encoded, codes, selected) for part, selected in self.selected(context).items()}

    def selected(self, context: PredictionContext) -> dict[str, Tensor]:
        """Returns masked target frames, and unmasked ones if they have a weight; see `Objective.selected`."""
        select = {"masked": self.select, "unmasked": self.select_unmasked}
        return {part: select[part](context.mask, context.lengths, context.stack) for part in self.weights}

    def predict(self, encoded: Tensor, codes: Tensor, selected: Tensor) -> PredictionResult:
        """Predicts the codes of selected frames.

        Args:
            encoded: `(B, T', d_model)`; it may be one frame longer or shorter than the codes.
            codes: `(B, T', codebooks)`.
            selected: boolean `(B, T')` on the host, as long as the codes.
        """
        frames = check_frames(encoded, codes)
        counted = count_codes(selected_frames(codes, selected), self.num_classes)
        selected = selected[:, :frames]
        targets = selected_frames(codes, selected)
        loss, correct = self.cross_entropy(self.heads, selected_frames(encoded, selected), targets)
        return PredictionResult(loss, correct.sum(), len(targets), counted)

    def plot_data(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Returns the scores of each frame, and the masked frames; see `Objective.plot_data`."""
        selected = self.select(context.mask, context.lengths, context.stack)
        frames = check_frames(encoded, selected)
        return self.logits(encoded[:, :frames])[..., 0, :], selected[:, :frames]

    def in_words(self, receptive_field_end: Tensor | None) -> str:
        """Describes the targets; see `Objective.in_words`."""
        weight = self.weights.get("unmasked")
        return "codes of masked frames" + (f", and of unmasked ones with weight {weight:g}" if weight else "")


def _masked_share(mask: Tensor, lengths: Tensor, stack: int) -> tuple[Tensor, Tensor]:
    """Returns the masked share of each target frame, and whether all of it is audio."""
    targets = mask.shape[1] // stack
    share = mask[:, : targets * stack].view(len(mask), targets, stack).float().mean(-1)
    return share, torch.arange(targets, device=mask.device) < (lengths // stack)[:, None]
