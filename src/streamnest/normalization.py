"""Feature normalisation, each kind with its declared look-ahead.

The encoder and the quantizer are normalised separately: targets are labels and may see the future, the input of a
streaming encoder may not. Without any normalisation the targets collapse (NEST: 124 codes of 8192 used).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamnest.errors import UserError

KINDS = ("global", "running", "utterance", "none")
_EPSILON = 1e-5


class Normalizer(nn.Module):
    """Brings log-mel bands to zero mean and unit variance, `(B, D, T)` -> `(B, D, T)`; frames past the length stay 0.

    Kinds and look-ahead: `global` (fixed statistics of the corpus, 0 ms), `running` (mean and variance of the frames
    heard so far, starting from the corpus statistics, 0 ms), `utterance` (mean and unbiased deviation of the whole
    utterance, unlimited: offline only), `none` (0 ms).

    The corpus statistics are buffers: they are fitted once and travel with the checkpoint.

    Args:
        kind: one of the kinds above.
        num_mels: bands.
        prior_frames: weight of the corpus statistics in `running`, in frames; 1 s by default.

    Raises:
        UserError: for an unknown kind, or when statistics are needed and were never fitted.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, kind: str, num_mels: int = 80, prior_frames: int = 100) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"normalize={kind!r} is unknown: choose one of {', '.join(KINDS)}")
        self.kind, self.prior_frames = kind, prior_frames
        self.register_buffer("mean", torch.zeros(num_mels))
        self.register_buffer("std", torch.ones(num_mels))
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def causal(self) -> bool:
        """Whether an output frame depends on past frames only."""
        return self.kind != "utterance"

    @property
    def needs_statistics(self) -> bool:
        """Whether corpus statistics must be fitted before use."""
        return self.kind in ("global", "running") and not bool(self.fitted)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Stores per-band statistics `(D,)` of the corpus."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(_EPSILON))
        self.fitted.fill_(True)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalises `(B, D, T)` features of `lengths` `(B,)` frames."""
        if self.needs_statistics:
            raise UserError(f"normalize={self.kind} needs corpus statistics: fit them first (train.py does at start)")
        valid = (torch.arange(features.shape[-1], device=features.device) < lengths[:, None])[:, None]
        if self.kind == "utterance":
            return self._utterance(features, lengths, valid)
        if self.kind == "running":
            return self._running(features, valid)
        return (features - self.mean[:, None]) / self.std[:, None] * valid if self.kind == "global" else features

    @staticmethod
    def _utterance(features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        count = lengths.clamp_min(1)[:, None, None]
        mean = (features * valid).sum(-1, keepdim=True) / count
        centred = (features - mean) * valid
        variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        return centred / (variance.sqrt() + _EPSILON)

    def _running(self, features: Tensor, valid: Tensor) -> Tensor:
        # Moments about the corpus mean, in float64: a difference of large sums would lose digits in long streams.
        centred = (features - self.mean[:, None]).double()
        prior = float(self.prior_frames)
        heard = prior + torch.arange(1, features.shape[-1] + 1, device=features.device)
        mean = centred.cumsum(-1) / heard
        square = (centred.square().cumsum(-1) + prior * self.std.double().square()[:, None]) / heard
        variance = (square - mean.square()).clamp_min(_EPSILON**2)
        return ((centred - mean) / variance.sqrt()).to(features.dtype) * valid
