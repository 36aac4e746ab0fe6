"""Feature normalisation, each kind with its declared look-ahead.

The encoder and the quantizer are normalised separately: targets are labels and may see the future, the input of a
streaming encoder may not. Without any normalisation the targets collapse (NEST: 124 codes of 8192 used).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from streamnest.errors import UserError

KINDS = ("global", "online", "utterance", "none")
_EPSILON = 1e-5


class NormalizerState(NamedTuple):
    """What `online` has heard of each stream: `(B,)` frames, and `(B, D)` sums of values and squares, float64."""

    frames: Tensor
    total: Tensor
    squares: Tensor


class Normalizer(nn.Module):
    """Brings log-mel bands to zero mean and unit variance, `(B, D, T)` -> `(B, D, T)`; frames past the length stay 0.

    Kinds and look-ahead: `global` (fixed statistics of the corpus, 0 ms), `online` (mean and variance of the frames
    heard so far, starting from the corpus statistics, 0 ms), `utterance` (mean and unbiased deviation of the whole
    utterance, unlimited: offline only), `none` (0 ms).

    The corpus statistics are buffers: they are fitted once and travel with the checkpoint.

    Args:
        kind: one of the kinds above.
        num_mels: bands.
        prior_frames: weight of the corpus statistics in `online`, in frames; 1 s by default.

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
        return self.kind in ("global", "online") and not bool(self.fitted)

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Stores per-band statistics `(D,)` of the corpus."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(_EPSILON))
        self.fitted.fill_(True)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalises `(B, D, T)` features of `lengths` `(B,)` frames."""
        self._require_statistics()
        valid = (torch.arange(features.shape[-1], device=features.device) < lengths[:, None])[:, None]
        if self.kind == "utterance":
            return self._utterance(features, lengths, valid)
        if self.kind == "online":
            return self._online(features, valid, self.init_state(len(features)))[0]
        return self._global(features, valid) if self.kind == "global" else features

    def init_state(self, batch: int) -> NormalizerState:
        """Returns the state of `batch` streams before their first frame; only `online` changes it.

        Raises:
            UserError: if statistics are needed and were never fitted.
        """
        self._require_statistics()
        zeros = torch.zeros(batch, len(self.mean), dtype=torch.float64, device=self.mean.device)
        return NormalizerState(torch.zeros(batch, dtype=torch.long, device=self.mean.device), zeros, zeros)

    def step(self, features: Tensor, valid: Tensor | None, state: NormalizerState) -> tuple[Tensor, NormalizerState]:
        """Normalises the next frames of streams, with the arithmetic of `forward`.

        Args:
            features: `(B, D, T)`.
            valid: boolean `(B, 1, T)`, False before and past a stream; None is all valid.
            state: from `init_state` or the previous step.

        Raises:
            UserError: for `utterance`, which waits for the end.
        """
        if self.kind == "utterance":
            raise UserError("normalize=utterance hears the whole utterance and cannot stream: use global or online")
        if self.kind == "online":
            return self._online(features, valid, state)
        if self.kind == "none":
            return _only(features, valid), state
        return self._global(features, valid), state

    def _require_statistics(self) -> None:
        if self.needs_statistics:
            raise UserError(f"normalize={self.kind} needs corpus statistics: fit them first (train.py does at start)")

    def _global(self, features: Tensor, valid: Tensor | None) -> Tensor:
        return _only((features - self.mean[:, None]) / self.std[:, None], valid)

    @staticmethod
    def _utterance(features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        count = lengths.clamp_min(1)[:, None, None]
        mean = (features * valid).sum(-1, keepdim=True) / count
        centred = (features - mean) * valid
        variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        return centred / (variance.sqrt() + _EPSILON)

    def _online(self, features: Tensor, valid: Tensor | None, state: NormalizerState) -> tuple[Tensor, NormalizerState]:
        # Moments about the corpus mean, in float64: a difference of large sums would lose digits in long streams.
        centred = _only((features - self.mean[:, None]).double(), valid)
        prior = float(self.prior_frames)
        count = state.frames[:, None] + torch.arange(1, features.shape[-1] + 1, device=features.device)
        total = state.total[..., None] + centred.cumsum(-1)
        squares = state.squares[..., None] + centred.square().cumsum(-1)
        heard = (prior + count)[:, None]
        mean = total / heard
        square = (squares + prior * self.std.double().square()[:, None]) / heard
        variance = (square - mean.square()).clamp_min(_EPSILON**2)
        after = state
        if features.shape[-1]:
            after = NormalizerState(count[:, -1], total[..., -1], squares[..., -1])
        return _only(((centred - mean) / variance.sqrt()).to(features.dtype), valid), after


def _only(x: Tensor, valid: Tensor | None) -> Tensor:
    return x if valid is None else x * valid
