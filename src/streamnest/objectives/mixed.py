"""Two objectives on one encoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from streamnest.errors import UserError
from streamnest.objectives.base import Objective, PredictionContext, PredictionResult
from streamnest.objectives.masked import MaskedConfig, MaskedPrediction
from streamnest.objectives.next_token import NextTokenPrediction


@dataclass
class MaskedAndNextTokenConfig(MaskedConfig):
    """Schema of `objective=masked_next_token`; see `MaskedAndNextToken`."""

    _target_: str = "streamnest.objectives.MaskedAndNextToken"
    num_offsets: int = 4
    distance: str = "nearest"
    max_visible: float = 0.0
    frame_share: float = 1.0
    masked_weight: float = 0.5
    next_token_weight: float = 0.5


class MaskedAndNextToken(Objective):
    """`MaskedPrediction` and `NextTokenPrediction` together, each with its own heads.

    Args:
        d_model: width of the encoder.
        num_classes: codes per book.
        num_codebooks: books.
        mask_threshold: of the masked part.
        unmasked_weight: of the masked part; times `masked_weight`.
        num_offsets: of the next-token part, as are `distance`, `max_visible` and `frame_share`.
        distance: see `NextTokenPrediction`.
        max_visible: see `NextTokenPrediction`.
        frame_share: see `NextTokenPrediction`.
        masked_weight: of the mean loss on masked frames.
        next_token_weight: of the mean loss on the next blocks.

    Raises:
        UserError: as the parts; and for weights that are not positive.
    """

    predicts_unseen = True

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = 1,
        mask_threshold: float = 0.8,
        unmasked_weight: float = 0.0,
        num_offsets: int = 4,
        distance: str = "nearest",
        max_visible: float = 0.0,
        frame_share: float = 1.0,
        masked_weight: float = 0.5,
        next_token_weight: float = 0.5,
    ) -> None:
        super().__init__()
        for name, weight in (("masked_weight", masked_weight), ("next_token_weight", next_token_weight)):
            if weight <= 0.0:
                raise UserError(f"objective.{name}={weight} must be above 0: for one part alone choose its objective")
        self.masked = MaskedPrediction(d_model, num_classes, num_codebooks, mask_threshold, unmasked_weight)
        self.next_token = NextTokenPrediction(
            d_model, num_classes, num_codebooks, num_offsets, distance, max_visible, frame_share
        )
        self.weights = {part: masked_weight * weight for part, weight in self.masked.weights.items()}
        self.weights |= {part: next_token_weight * weight for part, weight in self.next_token.weights.items()}

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """The results of both; see `Objective.forward`."""
        return self.masked(encoded, codes, context) | self.next_token(encoded, codes, context)

    def logits(self, encoded: Tensor) -> Tensor:
        """Of the masked part."""
        return self.masked.logits(encoded)

    def shown(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Of the masked part."""
        return self.masked.shown(encoded, context)

    def in_words(self, until: Tensor | None) -> str:
        """See `Objective.in_words`."""
        return f"{self.masked.in_words(until)}; {self.next_token.in_words(until)}"
