"""Prediction of the codes of target frames beyond the encoder's receptive field."""

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
from streamnest.objectives.selection import frames_at, to_device
from streamnest.quantizer import count_codes
from streamnest.randomness import uniform


@dataclass
class NextTokenConfig(ObjectiveConfig):
    """Schema of `objective=next_token`; see `NextTokenPrediction`."""

    _target_: str = "streamnest.objectives.NextTokenPrediction"
    num_offsets: int = 4
    distance: str = "nearest"
    max_visible: float = training_field(0.0)
    frame_share: float = training_field(1.0)


class NextTokenPrediction(Objective):
    """Cross entropy on the codes of the next target frames, from each output (NEST-RQ, Han et al. 2024, 2409.08680).

    Offset 1 is the first target frame beyond the output's receptive field, which is computed from the layers: with
    style `chunked` it contains the whole chunk, with `regular` the right contexts of all layers add up, and the
    analysis window of the front end reaches slightly into the next one. Targets past the end of a row are skipped.

    The heads are factorized: one projection of the encoder's width per offset, then one softmax per codebook, shared by
    all offsets.

    Args:
        d_model: width of the encoder.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks.
        num_offsets: target frames that each output predicts.
        distance: "nearest" counts offsets from the end of the output's own receptive field, so that all outputs of a
            chunk predict the same target frames. "uniform" counts from the longest look-ahead of any output, so that
            all outputs predict target frames at the same distance.
        max_visible: largest share of a target frame inside the receptive field for it to count as unseen.
        frame_share: share of outputs that predict in training, sampled at random.

    Raises:
        UserError: for values out of range.
    """

    predicts_unseen = True

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        num_codebooks: int = NextTokenConfig.num_codebooks,
        num_offsets: int = NextTokenConfig.num_offsets,
        distance: str = NextTokenConfig.distance,
        max_visible: float = NextTokenConfig.max_visible,
        frame_share: float = NextTokenConfig.frame_share,
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

    def first_targets(self, end: Tensor) -> Tensor:
        """Returns the first target frame that each output predicts, from the end of its receptive field, `(T',)`."""
        whole = end.floor()
        first = (whole + (end - whole > self.max_visible)).long()
        if self.distance == "nearest" or not len(first):
            return first
        time = torch.arange(len(first), device=first.device)
        # The first frame of a chunk has the longest look-ahead, and frame 0 is one.
        return time + (first - time).max()

    def logits(self, encoded: Tensor) -> Tensor:
        """Computes scores of all codes at all offsets: `(..., d_model)` -> `(..., offsets, codebooks, classes)`."""
        return self.outputs(self._project(encoded)).unflatten(-1, (self.num_codebooks, -1))

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts the next target frames from each output; see `Objective.forward`."""
        check_frames(encoded, codes)
        index, known = self._targets(encoded, context)
        known &= index < codes.shape[1]
        if self.training and self.frame_share < 1.0 and context.keys is not None:
            known &= (uniform(context.keys, encoded.shape[1]) < self.frame_share)[..., None]
        row, time, offset = known.nonzero().unbind(1)
        target = frames_at(codes, row * codes.shape[1] + index[time, offset])
        place = (row * encoded.shape[1] + time) * self.num_offsets + offset
        vectors = frames_at(self._project(encoded).flatten(1, 2), place)
        loss, correct = self.cross_entropy(self.outputs, vectors, target)
        result = PredictionResult(loss, correct.sum(), len(place), count_codes(target, self.num_classes))
        offset, counts = to_device(offset, correct.device), to_device(known.sum((0, 1)).float(), correct.device)
        details = torch.stack([correct.new_zeros(self.num_offsets).index_add_(0, offset, correct), counts], dim=1)
        result.details = {f"offset{k + 1}": details[k] for k in range(self.num_offsets)}
        return {"next_token": result}

    def plot_data(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Returns the scores of each target frame from the last output that predicts it; see `Objective.plot_data`."""
        index, known = self._targets(encoded, context)
        scores = encoded.new_zeros(*encoded.shape[:2], self.num_classes)
        selected = torch.zeros(encoded.shape[:2], dtype=torch.bool)
        # From the farthest to the nearest offset, so that the latest output, which sees most, is written last.
        for offset in reversed(range(self.num_offsets)):
            frame = (index[:, offset] < encoded.shape[1]).nonzero()[:, 0]
            at = index[frame, offset]
            scores[:, at] = self.logits(encoded[:, frame])[:, :, offset, 0].to(scores.dtype)
            selected[:, at] |= known[:, frame, offset]
        return scores, selected

    def in_words(self, receptive_field_end: Tensor | None) -> str:
        """Describes the targets; see `Objective.in_words`."""
        if receptive_field_end is None:
            return "nothing: the encoder sees the whole utterance"
        first = self.first_targets(receptive_field_end) - torch.arange(len(receptive_field_end))
        low, high = int(first.min()), int(first.max())
        after = f"{low}" if low == high else f"{low} to {high}"
        return f"codes of {self.num_offsets} future frames from each frame, the first one {after} frames ahead"

    def _project(self, encoded: Tensor) -> Tensor:
        return self.projection(encoded).unflatten(-1, (self.num_offsets, -1))

    def _targets(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Returns the target frame at each offset of each output `(T', offsets)`, and if a row has it `(B, ...)`.

        Both are on the host.
        """
        batch, frames = encoded.shape[:2]
        time, offsets = torch.arange(frames), torch.arange(self.num_offsets)
        end = context.receptive_field_end
        if end is None:  # nothing is left to predict
            return time[:, None] + offsets, torch.zeros(batch, frames, self.num_offsets, dtype=torch.bool)
        index = self.first_targets(end[:frames])[:, None] + offsets
        return index, index < context.num_targets[:, None, None]
