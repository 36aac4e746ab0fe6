"""What the encoder is taught: heads and losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.errors import UserError


@dataclass
class ObjectiveConfig:
    """Schema of the `objective` group; see `MaskedPrediction`."""

    _target_: str = "streamnest.objectives.MaskedPrediction"
    d_model: int = 256
    num_classes: int = 8192
    num_books: int = 1
    mask_threshold: float = 0.8


@dataclass
class PredictionResult:
    """Sums over the selected frames of one batch, for the caller to divide by a count over all ranks.

    Attributes:
        loss_sum: cross entropy in nats, mean over books, with a graph.
        correct: frames whose code was predicted, mean over books.
        count: selected frames, int64.
    """

    loss_sum: Tensor
    correct: Tensor
    count: Tensor


class MaskedPrediction(nn.Module):
    """Cross entropy on the codes of masked blocks (Chiu et al. 2022), one softmax per book.

    A frame counts when more than `mask_threshold` of its block is masked and the whole block is audio. Heads are
    evaluated on those frames only. Without any such frame the loss is exactly 0, with a graph, never NaN.

    Args:
        d_model: width of the encoder.
        num_classes: codes per book.
        num_books: books.
        mask_threshold: see above; 0.8 means all 4 of 4 frames or 7 of 8.

    Raises:
        UserError: for a threshold outside [0, 1), or encoder and code frames that do not belong together.
    """

    def __init__(self, d_model: int, num_classes: int, num_books: int = 1, mask_threshold: float = 0.8) -> None:
        super().__init__()
        if not 0.0 <= mask_threshold < 1.0:
            raise UserError(f"objective.mask_threshold={mask_threshold} must be at least 0 and below 1")
        self.num_books, self.mask_threshold = num_books, mask_threshold
        self.heads = nn.Linear(d_model, num_books * num_classes)
        nn.init.xavier_uniform_(self.heads.weight)

    def select(self, mask: Tensor, lengths: Tensor, stack: int) -> Tensor:
        """Which blocks count: masks `(B, T)`, lengths `(B,)` in feature frames -> boolean `(B, T // stack)`."""
        blocks = mask.shape[1] // stack
        share = mask[:, : blocks * stack].view(len(mask), blocks, stack).float().mean(-1)
        whole = torch.arange(blocks, device=mask.device) < (lengths // stack)[:, None]
        return (share > self.mask_threshold) & whole

    def logits(self, encoded: Tensor) -> Tensor:
        """Scores of all codes: `(..., d_model)` -> `(..., books, classes)`."""
        return self.heads(encoded).unflatten(-1, (self.num_books, -1))

    def forward(self, encoded: Tensor, codes: Tensor, selected: Tensor) -> PredictionResult:
        """Predicts the codes of selected frames.

        Args:
            encoded: `(B, T', d_model)`; one frame more or less than codes is cut.
            codes: `(B, T', books)`.
            selected: boolean `(B, T')`, as long as codes.
        """
        frames = min(encoded.shape[1], codes.shape[1])
        if abs(encoded.shape[1] - codes.shape[1]) > 1:
            raise UserError(f"{encoded.shape[1]} encoder frames do not belong to {codes.shape[1]} targets")
        selected = selected[:, :frames]
        logits = self.logits(encoded[:, :frames][selected])
        target = codes[:, :frames][selected]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="sum") / self.num_books
        correct = (logits.detach().argmax(-1) == target).sum() / self.num_books
        return PredictionResult(loss, correct, selected.sum())
