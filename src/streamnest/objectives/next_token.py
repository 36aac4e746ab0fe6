"""Prediction of the codes of blocks that the encoder has not heard yet."""

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
from streamnest.randomness import uniform


@dataclass
class NextTokenConfig(ObjectiveConfig):
    """Schema of `objective=next_token`; see `NextTokenPrediction`."""

    _target_: str = "streamnest.objectives.NextTokenPrediction"
    num_offsets: int = 4
    distance: str = "nearest"
    max_visible: float = 0.0
    frame_share: float = 1.0


class NextTokenPrediction(Objective):
    """Cross entropy on the codes of the next blocks, from every frame (NEST-RQ, Han et al. 2024, arXiv 2409.08680).

    Offset 1 is the first block that the frame has not heard, as computed from the layers: an output of a chunked
    encoder has heard its whole chunk, one of a regular encoder what all layers add up to, and the window of the front
    end reaches a little into the block after. Blocks past the end of a row are not predicted.

    The heads are factorised: a projection of the encoder's width per offset, then a softmax per book that all offsets
    share.

    Args:
        d_model: width of the encoder.
        num_classes: codes per book.
        num_codebooks: books.
        num_offsets: blocks that each frame predicts.
        distance: "nearest" counts offsets from where the frame itself has stopped seeing, so that all frames of a
            chunk predict the same blocks. "uniform" counts from the longest look-ahead of any frame, so that every
            frame predicts blocks at the same distance from its own.
        max_visible: a block counts as unheard when at most this share of it was heard.
        frame_share: share of frames that predict while training, drawn at random.

    Raises:
        UserError: for values out of range, or an encoder that hears the whole utterance.
    """

    predicts_unseen = True

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = 1,
        num_offsets: int = 4,
        distance: str = "nearest",
        max_visible: float = 0.0,
        frame_share: float = 1.0,
    ) -> None:
        super().__init__()
        if num_offsets < 1:
            raise UserError(f"objective.num_offsets={num_offsets} must be at least 1")
        if distance not in ("nearest", "uniform"):
            raise UserError(f"objective.distance={distance!r} is unknown: choose nearest or uniform")
        if not 0.0 <= max_visible < 1.0:
            raise UserError(f"objective.max_visible={max_visible} must be at least 0 and below 1")
        if not 0.0 < frame_share <= 1.0:
            raise UserError(f"objective.frame_share={frame_share} must be above 0, at most 1")
        self.num_classes, self.num_codebooks, self.num_offsets = num_classes, num_codebooks, num_offsets
        self.distance, self.max_visible, self.frame_share = distance, max_visible, frame_share
        self.weights = {"next_token": 1.0}
        self.projection = nn.Linear(d_model, num_offsets * d_model)
        self.outputs = nn.Linear(d_model, num_codebooks * num_classes)
        nn.init.xavier_uniform_(self.outputs.weight)

    def first_blocks(self, until: Tensor) -> Tensor:
        """Returns the first target frame that each output predicts, `(T',)`, from `PredictionContext.until`."""
        whole = until.floor()
        first = (whole + (until - whole > self.max_visible)).long()
        if self.distance == "nearest" or not len(first):
            return first
        time = torch.arange(len(first), device=first.device)
        # The longest look-ahead is of the first frame of a chunk, and frame 0 is one.
        return time + (first - time).max()

    def logits(self, encoded: Tensor) -> Tensor:
        """Scores of all codes at all offsets: `(..., d_model)` -> `(..., offsets, books, classes)`."""
        return self.outputs(self._project(encoded)).unflatten(-1, (self.num_codebooks, -1))

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts the next blocks from every frame; see `Objective.forward`."""
        check_frames(encoded, codes)
        block, known = self._blocks(encoded, context)
        known &= block < codes.shape[1]
        if self.training and self.frame_share < 1.0 and context.keys is not None:
            known &= (uniform(context.keys, encoded.shape[1]) < self.frame_share)[..., None]
        target = codes[:, block.clamp_max(max(0, codes.shape[1] - 1))][known]
        loss, right = cross_entropy(self.outputs, self._project(encoded)[known], target)
        result = PredictionResult(loss, right.sum(), known.sum(), count_codes(target, self.num_classes))
        offset = known.nonzero()[:, -1]
        correct = right.new_zeros(self.num_offsets).index_add_(0, offset, right)
        figures = torch.stack([correct, known.sum((0, 1)).float()], dim=1)
        result.details = {f"offset{k + 1}": figures[k] for k in range(self.num_offsets)}
        return {"next_token": result}

    def shown(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """The scores that each block got from the last frame that predicts it; see `Objective.shown`."""
        block, known = self._blocks(encoded, context)
        scores = encoded.new_zeros(*encoded.shape[:2], self.num_classes)
        selected = torch.zeros(encoded.shape[:2], dtype=torch.bool, device=encoded.device)
        # From the far offset to the near one: what is written last comes from the frame that has heard most.
        for offset in reversed(range(self.num_offsets)):
            frame = (block[:, offset] < encoded.shape[1]).nonzero()[:, 0]
            at = block[frame, offset]
            scores[:, at] = self.logits(encoded[:, frame])[:, :, offset, 0].to(scores.dtype)
            selected[:, at] |= known[:, frame, offset]
        return scores, selected

    def in_words(self, until: Tensor | None) -> str:
        """See `Objective.in_words`."""
        if until is None:
            return "nothing: all is heard"
        first = self.first_blocks(until) - torch.arange(len(until))
        low, high = int(first.min()), int(first.max())
        after = f"{low}" if low == high else f"{low} to {high}"
        return f"codes of {self.num_offsets} blocks from every frame, the first of them {after} after its own"

    def _project(self, encoded: Tensor) -> Tensor:
        return self.projection(encoded).unflatten(-1, (self.num_offsets, -1))

    def _blocks(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """The block at each offset of each frame `(T', offsets)`, and whether a row has it `(B, T', offsets)`."""
        time = torch.arange(encoded.shape[1], device=encoded.device)
        offsets = torch.arange(self.num_offsets, device=encoded.device)
        if context.until is None:  # nothing is left to predict
            return time[:, None] + offsets, encoded.new_zeros(*encoded.shape[:2], self.num_offsets, dtype=torch.bool)
        block = self.first_blocks(context.until.to(encoded.device))[:, None] + offsets
        return block, block < context.blocks[:, None, None]
