"""Prediction of the codes of hidden blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamnest.errors import UserError
from streamnest.objectives.base import (
    Objective,
    ObjectiveConfig,
    PredictionContext,
    PredictionResult,
    check_frames,
    cross_entropy,
)
from streamnest.quantizer import count_codes


@dataclass
class MaskedConfig(ObjectiveConfig):
    """Schema of `objective=masked`; see `MaskedPrediction`."""

    mask_threshold: float = 0.8
    unmasked_weight: float = 0.0


class MaskedPrediction(Objective):
    """Cross entropy on the codes of masked blocks (Chiu et al. 2022), one softmax per book.

    A frame counts when more than `mask_threshold` of its block is masked and the whole block is audio. Heads are
    evaluated on those frames only. Without any such frame the loss is exactly 0, with a graph, never NaN.

    With `unmasked_weight`, frames of whose block nothing is masked are predicted too, as a part of its own: the targets
    are of the clean audio and the encoder hears the noisy one, so that this is denoising.

    Args:
        d_model: width of the encoder.
        num_classes: codes per book.
        num_codebooks: books.
        mask_threshold: see above; 0.8 means all 4 of 4 frames or 7 of 8.
        unmasked_weight: of the mean loss on heard frames; that on masked ones has 1.

    Raises:
        UserError: for a threshold outside [0, 1), a negative weight, or encoder and code frames that do not belong
            together.
    """

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = 1,
        mask_threshold: float = 0.8,
        unmasked_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= mask_threshold < 1.0:
            raise UserError(f"objective.mask_threshold={mask_threshold} must be at least 0 and below 1")
        if unmasked_weight < 0.0:
            raise UserError(f"objective.unmasked_weight={unmasked_weight} must be at least 0")
        self.num_classes, self.num_codebooks, self.mask_threshold = num_classes, num_codebooks, mask_threshold
        self.weights = {"masked": 1.0, **({"heard": unmasked_weight} if unmasked_weight else {})}
        self.heads = nn.Linear(d_model, num_codebooks * num_classes)
        nn.init.xavier_uniform_(self.heads.weight)

    def select(self, mask: Tensor, lengths: Tensor, stack: int) -> Tensor:
        """Which blocks count: masks `(B, T)`, lengths `(B,)` in feature frames -> boolean `(B, T // stack)`."""
        share, whole = _hidden_share(mask, lengths, stack)
        return (share > self.mask_threshold) & whole

    def select_unmasked(self, mask: Tensor, lengths: Tensor, stack: int) -> Tensor:
        """Whole blocks without any masked frame; arguments and shapes as those of `select`."""
        share, whole = _hidden_share(mask, lengths, stack)
        return (share == 0) & whole

    def logits(self, encoded: Tensor) -> Tensor:
        """Scores of all codes: `(..., d_model)` -> `(..., books, classes)`."""
        return self.heads(encoded).unflatten(-1, (self.num_codebooks, -1))

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts masked frames, and heard ones where they have a weight; see `Objective.forward`."""
        where = {"masked": self.select, "heard": self.select_unmasked}
        return {
            part: self.predict(encoded, codes, where[part](context.mask, context.lengths, context.stack))
            for part in self.weights
        }

    def predict(self, encoded: Tensor, codes: Tensor, selected: Tensor) -> PredictionResult:
        """Predicts the codes of selected frames.

        Args:
            encoded: `(B, T', d_model)`; one frame more or less than codes is cut.
            codes: `(B, T', books)`.
            selected: boolean `(B, T')`, as long as codes.
        """
        frames = check_frames(encoded, codes)
        counted = count_codes(codes[selected], self.num_classes)
        selected = selected[:, :frames]
        loss, right = cross_entropy(self.heads, encoded[:, :frames][selected], codes[:, :frames][selected])
        return PredictionResult(loss, right.sum(), selected.sum(), counted)

    def shown(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Scores at each frame, and the masked blocks; see `Objective.shown`."""
        selected = self.select(context.mask, context.lengths, context.stack)
        frames = check_frames(encoded, selected)
        return self.logits(encoded[:, :frames])[..., 0, :], selected[:, :frames]

    def in_words(self, until: Tensor | None) -> str:
        """See `Objective.in_words`."""
        heard = f", and of heard ones with weight {self.weights['heard']:g}" if "heard" in self.weights else ""
        return f"codes of hidden blocks{heard}"


def _hidden_share(mask: Tensor, lengths: Tensor, stack: int) -> tuple[Tensor, Tensor]:
    """Share of each block that is masked, and whether it is all audio."""
    blocks = mask.shape[1] // stack
    share = mask[:, : blocks * stack].view(len(mask), blocks, stack).float().mean(-1)
    return share, torch.arange(blocks, device=mask.device) < (lengths // stack)[:, None]
