"""Base class of maskings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streamnest.errors import UserError


@dataclass
class MaskingConfig:
    """Fields that the schemas of the `masking` group share; each kind adds its own."""

    _target_: str = "streamnest.masking.build_masking"
    feat_in: int = 80
    mask_value: float | None = None
    freeze: bool = True


class Masking(nn.Module):
    """Base class of maskings: `sample` creates random masks, `apply` masks features, `forward` does both."""

    mask_embedding: Tensor

    def sample(
        self,
        input_lengths: Tensor,
        num_frames: int,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Samples masks: lengths `(B,)` in feature frames -> boolean `(B, num_frames)`, True if masked.

        Args:
            input_lengths: `(B,)` valid frames.
            num_frames: length of the masks.
            current_frame: live edge, as in `forward`.
            keys: random keys, as in `forward`.
            chunk: feature frames that become available to the encoder together; None is the whole utterance.
        """
        raise NotImplementedError

    def apply(self, input_feats: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Replaces masked frames of `(B, D, T)` features by the mask embedding."""
        fill = self.mask_embedding.to(input_feats.dtype)[:, None]
        return torch.where(mask[:, None], fill, input_feats)

    def forward(
        self,
        input_feats: Tensor,
        input_lengths: Tensor,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks a batch.

        Args:
            input_feats: `(B, D, T)` log-mel features.
            input_lengths: `(B,)` valid frames.
            current_frame: live edge, one for all rows or `(B,)`; see `RandomBlockMasking`.
            keys: `(B,)` int64 random keys; by default sampled from torch's global generator.

        Returns:
            Masked features and masks (1 if masked), both `(B, D, T)`.
        """
        mask = self.sample(input_lengths, input_feats.shape[-1], current_frame, keys=keys)
        return self.apply(input_feats, mask), mask[:, None].to(input_feats.dtype).expand_as(input_feats)


class NoMasking(Masking):
    """Masks nothing; for evaluation and next-token prediction."""

    def sample(
        self,
        input_lengths: Tensor,
        num_frames: int,
        current_frame: int | Tensor | None = None,
        *,
        keys: Tensor | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Returns masks `(B, num_frames)` that are False everywhere."""
        return torch.zeros(len(input_lengths), num_frames, dtype=torch.bool, device=input_lengths.device)

    def apply(self, input_feats: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Returns the features unchanged."""
        return input_feats


def mask_embedding(module: nn.Module, feat_in: int, mask_value: float | None, freeze: bool) -> None:
    """Adds `mask_embedding` `(feat_in,)` to a masking: sampled from N(0, 0.1), trained unless frozen; or constant."""
    if mask_value is None:
        module.mask_embedding = nn.Parameter(0.1 * torch.randn(feat_in), requires_grad=not freeze)
    else:
        module.register_buffer("mask_embedding", torch.full((feat_in,), float(mask_value)))


def at(values: Tensor, index: Tensor) -> Tensor:
    """Returns `values[b, index[b, t]]`; indices are clamped, and callers mask those out of range."""
    return values.gather(1, index.clamp(0, values.shape[1] - 1).expand(len(values), -1))


def check(name: str, value: float, good: bool, range_: str) -> None:
    """Raises `UserError` if a value is out of range."""
    if not good:
        raise UserError(f"masking.{name}={value} must be {range_}")
