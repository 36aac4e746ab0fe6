"""What every objective offers, and the cross entropy they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.errors import UserError

# Scores held at once, 256 MB of float32; more than that is computed in pieces, and again for the backward pass.
_MAX_LOGITS = 1 << 26


@dataclass
class ObjectiveConfig:
    """What the schemas of the `objective` group have in common; each choice adds its own."""

    _target_: str = "streamnest.objectives.MaskedPrediction"
    d_model: int = 256
    num_classes: int = 8192
    num_codebooks: int = 1


@dataclass
class PredictionContext:
    """What the encoder had to go by.

    Attributes:
        mask: boolean `(B, T)` in feature frames, True is hidden.
        lengths: `(B,)` feature frames.
        stack: feature frames per block.
        until: `(T',)` end of what each output has heard, in blocks from the start of the utterance; None is all of it.
            See `latency.receptive_field_end`.
        keys: `(B,)` random keys; None where nothing may be drawn.
    """

    mask: Tensor
    lengths: Tensor
    stack: int
    until: Tensor | None = None
    keys: Tensor | None = None

    @property
    def blocks(self) -> Tensor:
        """Whole blocks of audio in each row, `(B,)`."""
        return self.lengths // self.stack


@dataclass
class PredictionResult:
    """Sums over the predictions of one batch, for the caller to divide by a count over all ranks.

    Attributes:
        loss_sum: cross entropy in nats, mean over books, with a graph.
        correct: predictions that were right, mean over books.
        count: predictions, int64.
        targets: how often each code was to be predicted, `(books, classes)`.
        details: correct and count, `(2,)`, of named groups of the predictions.
    """

    loss_sum: Tensor
    correct: Tensor
    count: Tensor
    targets: Tensor
    details: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Heads and losses on the encoder's output.

    The loss is the sum over `weights` of weight times mean cross entropy of that part. A part with nothing to predict
    costs exactly 0, with a graph, never NaN.

    Attributes:
        weights: of the parts of the loss by name; `forward` returns a result for each.
        predicts_unseen: whether a part needs audio that the encoder has not heard.
    """

    weights: dict[str, float]
    predicts_unseen = False

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts codes.

        Args:
            encoded: `(B, T', d_model)`, output t belongs to block t; one frame more or less than codes is cut.
            codes: `(B, T', books)`.
            context: what the encoder had to go by.
        """
        raise NotImplementedError

    def logits(self, encoded: Tensor) -> Tensor:
        """Scores of all codes: `(..., d_model)` -> `(..., books, classes)`; more dimensions may come before books."""
        raise NotImplementedError

    def shown(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """For pictures: scores of the first book `(B, T', classes)` and which blocks were predicted, `(B, T')`."""
        raise NotImplementedError

    def in_words(self, until: Tensor | None) -> str:
        """What is predicted; `until` is `PredictionContext.until` of the frames of one chunk."""
        raise NotImplementedError


def check_frames(encoded: Tensor, codes: Tensor) -> int:
    """Frames that encoder output and codes have in common.

    Raises:
        UserError: when they differ by more than one.
    """
    if abs(encoded.shape[1] - codes.shape[1]) > 1:
        raise UserError(f"{encoded.shape[1]} encoder frames do not belong to {codes.shape[1]} targets")
    return min(encoded.shape[1], codes.shape[1])


def cross_entropy(heads: nn.Linear, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of a softmax per book, in bounded memory.

    Args:
        heads: `d` -> books x classes, book by book.
        vectors: `(N, d)`.
        codes: `(N, books)`.

    Returns:
        The sum in nats, mean over books, and which share of the books was right, `(N,)`.
    """
    rows = max(1, _MAX_LOGITS // heads.out_features)
    if len(vectors) <= rows:
        return _cross_entropy(heads, vectors, codes)
    pieces = [
        checkpoint(_cross_entropy, heads, some, wanted, use_reentrant=False)
        for some, wanted in zip(vectors.split(rows), codes.split(rows))
    ]
    return torch.stack([loss for loss, _ in pieces]).sum(), torch.cat([right for _, right in pieces])


def _cross_entropy(heads: nn.Linear, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    books = codes.shape[-1]
    logits = heads(vectors).unflatten(-1, (books, -1))
    loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="sum") / books
    return loss, (logits.detach().argmax(-1) == codes).float().mean(-1)
