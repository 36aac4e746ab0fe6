"""Hiding stretches of time and bands of frequency from a recogniser while it trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamnest.errors import UserError
from streamnest.masking import RandomBlockMasking
from streamnest.randomness import fold_keys, uniform

_TIME_STREAM, _BAND_STREAM = 0x5EC1, 0x5EC2


class SpecAugment(nn.Module):
    """SpecAugment (Park et al. 2019) without warping, `(B, D, T)` -> `(B, D, T)`; nothing where it does not train.

    Hidden values become 0, the mean of normalised features. Draws are functions of a key per row.

    Args:
        num_mels: bands D.
        time_prob: share of frames that begin a hidden stretch; stretches may overlap. 0 hides none.
        time_frames: feature frames of a stretch.
        bands: hidden bands of frequency; 0 is none.
        band_width: most mel bands in one of them; from 0 to this many are hidden.

    Raises:
        UserError: for values out of range.
    """

    def __init__(self, num_mels: int, time_prob: float, time_frames: int, bands: int, band_width: int) -> None:
        super().__init__()
        if bands < 0 or not 0 <= band_width <= num_mels:
            raise UserError(
                f"task.spec_augment: bands={bands}, band_width={band_width}: need 0 to {num_mels} mel bands"
            )
        self.time = RandomBlockMasking(num_mels, time_prob, time_frames, mask_value=0.0, allow_overlap=True)
        self.num_mels, self.bands, self.band_width = num_mels, bands, band_width

    def forward(self, features: Tensor, frames: Tensor, keys: Tensor) -> Tensor:
        """Hides from normalised features `(B, D, T)` of `frames` `(B,)`, by keys `(B,)`."""
        if not self.training:
            return features
        if self.time.mask_prob > 0:
            mask = self.time.sample(frames, features.shape[-1], keys=fold_keys(keys, _TIME_STREAM))
            features = self.time.apply(features, mask)
        if self.bands and self.band_width:
            features = features * self.kept(fold_keys(keys, _BAND_STREAM))[..., None]
        return features

    def kept(self, keys: Tensor) -> Tensor:
        """The mel bands that stay, boolean `(B, D)`."""
        drawn = uniform(keys, 2 * self.bands).view(len(keys), self.bands, 2)
        width = (drawn[..., 0] * (self.band_width + 1)).long()
        first = (drawn[..., 1] * (self.num_mels - width + 1)).long()
        mel = torch.arange(self.num_mels, device=keys.device)
        hidden = (mel >= first[..., None]) & (mel < (first + width)[..., None])
        return ~hidden.any(1)
