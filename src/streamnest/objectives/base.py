"""Base class of objectives, and the cross entropy they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.encoder.compilation import compilable
from streamnest.errors import UserError

# Most scores held at once, 256 MB of float32; more are computed in pieces, and recomputed in the backward pass.
MAX_LOGITS = 1 << 26


@dataclass
class ObjectiveConfig:
    """Fields that the schemas of the `objective` group share; each choice adds its own."""

    _target_: str = "streamnest.objectives.MaskedPrediction"
    d_model: int = 256
    num_classes: int = 8192
    num_codebooks: int = 1


@dataclass
class PredictionContext:
    """Masks, lengths and receptive field of a batch, all on the host: frames are selected there.

    Attributes:
        mask: boolean `(B, T)` in feature frames, True if masked.
        lengths: `(B,)` feature frames.
        stack: feature frames per target frame.
        receptive_field_end: end of the receptive field of each output, at least `(T',)`, in target frames from the
            start of the utterance; None is the whole utterance. See `latency.receptive_field_end`.
        keys: `(B,)` random keys; None if nothing is sampled.
    """

    mask: Tensor
    lengths: Tensor
    stack: int
    receptive_field_end: Tensor | None = None
    keys: Tensor | None = None

    @property
    def num_targets(self) -> Tensor:
        """Whole target frames in each row, `(B,)`."""
        return self.lengths // self.stack


@dataclass
class PredictionResult:
    """Sums over the predictions of one batch, for the caller to divide by a count over all ranks.

    Attributes:
        loss_sum: cross entropy in nats, mean over codebooks, differentiable.
        correct: number of correct predictions, mean over codebooks.
        count: number of predictions, known on the host.
        targets: number of occurrences of each target code, `(codebooks, classes)`.
        details: correct and count, `(2,)`, for named groups of predictions.
    """

    loss_sum: Tensor
    correct: Tensor
    count: int
    targets: Tensor
    details: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Heads and losses on the encoder's output.

    The loss is the sum over `weights` of weight times mean cross entropy of that part. A part with nothing to predict
    has a loss of exactly 0, which is differentiable and never NaN.

    Attributes:
        weights: weight of each part of the loss by name; `forward` returns a result for each.
        predicts_unseen: True if a part predicts audio beyond the encoder's receptive field.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks.
    """

    weights: dict[str, float]
    num_classes: int
    num_codebooks: int
    predicts_unseen = False

    def forward(self, encoded: Tensor, codes: Tensor, context: PredictionContext) -> dict[str, PredictionResult]:
        """Predicts codes.

        Args:
            encoded: `(B, T', d_model)`, output t belongs to target frame t; it may be one frame longer or shorter than
                the codes.
            codes: `(B, T', codebooks)`.
            context: masks, lengths and receptive field.
        """
        raise NotImplementedError

    def logits(self, encoded: Tensor) -> Tensor:
        """Computes scores of all codes: `(..., d_model)` -> `(..., codebooks, classes)`.

        Subclasses may have more dimensions before the codebooks.
        """
        raise NotImplementedError

    def selected(self, context: PredictionContext) -> dict[str, Tensor]:
        """Returns the target frames that masked prediction predicts, boolean `(B, T')`, for each of its parts."""
        return {}

    def plot_data(self, encoded: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Returns plot data: scores of the first codebook `(B, T', classes)`, and the predicted frames `(B, T')`."""
        raise NotImplementedError

    def cross_entropy(self, heads: nn.Linear, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the cross entropy of one softmax per codebook, in bounded memory.

        Args:
            heads: `d` -> codebooks * classes, one codebook after the other.
            vectors: `(N, d)`.
            codes: `(N, codebooks)`.

        Returns:
            The sum in nats, mean over codebooks, and the share of codebooks predicted correctly, `(N,)`.
        """
        rows = max(1, MAX_LOGITS // heads.out_features)
        if len(vectors) <= rows:
            return self._cross_entropy(heads, vectors, codes)
        pieces = [
            checkpoint(self._cross_entropy, heads, part, targets, use_reentrant=False)
            for part, targets in zip(vectors.split(rows), codes.split(rows))
        ]
        return torch.stack([loss for loss, _ in pieces]).sum(), torch.cat([correct for _, correct in pieces])

    @compilable
    def _cross_entropy(self, heads: nn.Linear, vectors: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        codebooks = codes.shape[-1]
        logits = heads(vectors).unflatten(-1, (codebooks, -1))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="sum") / codebooks
        return loss, (logits.detach().argmax(-1) == codes).float().mean(-1)

    def in_words(self, receptive_field_end: Tensor | None) -> str:
        """Describes the targets, given the ends of the receptive fields of the frames of one chunk."""
        raise NotImplementedError


def check_frames(encoded: Tensor, codes: Tensor) -> int:
    """Returns the number of frames that encoder output and codes share.

    Raises:
        UserError: if they differ by more than one.
    """
    if abs(encoded.shape[1] - codes.shape[1]) > 1:
        raise UserError(
            f"{encoded.shape[1]} encoder frames do not match {codes.shape[1]} targets: at most 1 may differ"
        )
    return min(encoded.shape[1], codes.shape[1])
