"""Masked and next-token prediction on one encoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from streamnest.encoder.config import training_field
from streamnest.errors import UserError
from streamnest.objectives.base import Objective, PredictionContext, PredictionResult
from streamnest.objectives.masked import MaskedConfig, MaskedPrediction
from streamnest.objectives.next_token import NextTokenConfig, NextTokenPrediction


@dataclass
class MaskedAndNextTokenConfig(NextTokenConfig, MaskedConfig):
    """Schema of `objective=masked_next_token`; see `MaskedAndNextToken`."""

    _target_: str = "streamnest.objectives.MaskedAndNextToken"
    masked_weight: float = training_field(0.5)
    next_token_weight: float = training_field(0.5)


class MaskedAndNextToken(Objective):
    """`MaskedPrediction` and `NextTokenPrediction` together, each with its own heads.

    Args:
        d_model: width of the encoder.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks.
        mask_threshold: threshold of `MaskedPrediction`.
        unmasked_weight: weight in `MaskedPrediction`, multiplied by `masked_weight`.
        num_offsets: offsets of `NextTokenPrediction`.
        distance: distance of `NextTokenPrediction`.
        max_visible: visible share of `NextTokenPrediction`.
        frame_share: share of frames of `NextTokenPrediction`.
        masked_weight: weight of the mean loss on masked frames.
        next_token_weight: weight of the mean loss on the next target frames.

    Raises:
        UserError: for values out of range, and for weights that are not positive.
    """

    predicts_unseen = True

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = MaskedAndNextTokenConfig.num_codebooks,
        mask_threshold: float = MaskedAndNextTokenConfig.mask_threshold,
        unmasked_weight: float = MaskedAndNextTokenConfig.unmasked_weight,
        num_offsets: int = MaskedAndNextTokenConfig.num_offsets,
        distance: str = MaskedAndNextTokenConfig.distance,
        max_visible: float = MaskedAndNextTokenConfig.max_visible,
        frame_share: float = MaskedAndNextTokenConfig.frame_share,
        masked_weight: float = MaskedAndNextTokenConfig.masked_weight,
        next_token_weight: float = MaskedAndNextTokenConfig.next_token_weight,
    ) -> None:
        super().__init__()
        for name, weight in (("masked_weight", masked_weight), ("next_token_weight", next_token_weight)):
            if weight <= 0.0:
                raise UserError(
                    f"objective.{name}={weight} must be above 0; for one part only, use objective=masked or next_token"
                )
        self.masked = MaskedPrediction(d_model, num_classes, num_codebooks, mask_threshold, unmasked_weight)
        self.next_token = NextTokenPrediction(
            d_model, num_classes, num_codebooks, num_offsets, distance, max_visible, frame_share
        )
        self.num_classes, self.num_codebooks = num_classes, num_codebooks
        self.weights = {part: masked_weight * weight for part, weight in self.masked.weights.items()}
        self.weights |= {part: next_token_weight * weight for part, weight in self.next_token.weights.items()}

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Returns the results of both; see `Objective.forward`."""
        return self.masked(encoded, codes, context) | self.next_token(encoded, codes, context)

    def selected(self, context: PredictionContext) -> dict[str, Tensor]:
        """Returns the frames of the masked part."""
        return self.masked.selected(context)

    def logits(self, encoded: Tensor) -> Tensor:
        """Returns the scores of the masked part."""
        return self.masked.logits(encoded)

    def plot_data(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Returns the scores and frames of the masked part."""
        return self.masked.plot_data(encoded, context)

    def in_words(self, receptive_field_end: Tensor | None) -> str:
        """Describes the targets; see `Objective.in_words`."""
        return f"{self.masked.in_words(receptive_field_end)}; {self.next_token.in_words(receptive_field_end)}"
