"""Feature normalization; each kind declares its look-ahead.

The inputs of encoder and quantizer are normalized separately: targets may depend on future audio, the input of a
streaming encoder may not. Without normalization the targets collapse (NEST: 124 codes of 8192 used).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from streamnest.errors import UserError

KINDS = ("global", "online", "utterance", "none")
_EPSILON = 1e-5


class NormalizerState(NamedTuple):
    """State of `online`: `(B,)` frames so far, and `(B, D)` sums of values and of squares, float64."""

    frames: Tensor
    total: Tensor
    squares: Tensor


class Normalizer(nn.Module):
    """Normalizes log-mel bands to zero mean and unit variance, `(B, D, T)` -> `(B, D, T)`; padding stays 0.

    Kinds and look-ahead: `global` (fixed corpus statistics, 0 ms), `online` (cumulative mean and variance of the
    stream, starting from the corpus statistics, 0 ms), `utterance` (mean and unbiased deviation of the whole utterance,
    unlimited: offline only), `none` (0 ms).

    The corpus statistics are buffers: they are fitted once and stored in checkpoints.

    Args:
        kind: one of the kinds above.
        num_mels: number of mel bands D.
        prior_frames: weight of the corpus statistics in `online`, in frames; 1 s by default.

    Raises:
        UserError: if the kind is unknown, or required statistics were not fitted.
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
        # `fitted` on the host once it is true: reading the buffer in each step would wait for the device.
        self._is_fitted = False

    @property
    def causal(self) -> bool:
        """True if outputs do not depend on future frames."""
        return self.kind != "utterance"

    @property
    def needs_statistics(self) -> bool:
        """True if corpus statistics must be fitted before use."""
        if self.kind not in ("global", "online"):
            return False
        self._is_fitted = self._is_fitted or bool(self.fitted)
        return not self._is_fitted

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Stores per-band statistics `(D,)` of the corpus."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(_EPSILON))
        self.fitted.fill_(True)
        self._is_fitted = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Loads the buffers, and reads `fitted` again when it is needed."""
        self._is_fitted = False
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalizes `(B, D, T)` features of `lengths` `(B,)` frames."""
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
        """Normalizes the next frames of streams, with the arithmetic of `forward`.

        Args:
            features: `(B, D, T)`.
            valid: boolean `(B, 1, T)`, False before and after a stream; None if all frames are valid.
            state: state from `init_state` or the previous step.

        Raises:
            UserError: for `utterance`, which needs the whole utterance.
        """
        if self.kind == "utterance":
            raise UserError("normalize=utterance needs the whole utterance and cannot stream: use global or online")
        if self.kind == "online":
            return self._online(features, valid, state)
        if self.kind == "none":
            return _only(features, valid), state
        return self._global(features, valid), state

    def _require_statistics(self) -> None:
        if self.needs_statistics:
            raise UserError(f"normalize={self.kind} needs corpus statistics: fit them first, as train.py does at start")

    def _global(self, features: Tensor, valid: Tensor | None) -> Tensor:
        return _only((features - self.mean[:, None]) / self.std[:, None], valid)

    @staticmethod
    def _utterance(features: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        count = lengths.clamp_min(1)[:, None, None]
        mean = (features * valid).sum(-1, keepdim=True) / count
        centered = (features - mean) * valid
        variance = centered.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        return centered / (variance.sqrt() + _EPSILON)

    def _online(self, features: Tensor, valid: Tensor | None, state: NormalizerState) -> tuple[Tensor, NormalizerState]:
        # Moments around the corpus mean, in float64: differences of large sums would lose precision in long streams.
        centered = _only((features - self.mean[:, None]).double(), valid)
        prior = float(self.prior_frames)
        count = state.frames[:, None] + torch.arange(1, features.shape[-1] + 1, device=features.device)
        total = state.total[..., None] + centered.cumsum(-1)
        squares = state.squares[..., None] + centered.square().cumsum(-1)
        weight = (prior + count)[:, None]
        mean = total / weight
        square = (squares + prior * self.std.double().square()[:, None]) / weight
        variance = (square - mean.square()).clamp_min(_EPSILON**2)
        after = state
        if features.shape[-1]:
            after = NormalizerState(count[:, -1], total[..., -1], squares[..., -1])
        return _only(((centered - mean) / variance.sqrt()).to(features.dtype), valid), after


def _only(x: Tensor, valid: Tensor | None) -> Tensor:
    return x if valid is None else x * valid
