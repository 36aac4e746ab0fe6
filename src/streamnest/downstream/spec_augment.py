"""SpecAugment: masking of time spans and frequency bands in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamnest.errors import UserError
from streamnest.masking import RandomBlockMasking
from streamnest.randomness import fold_keys, uniform

_TIME_STREAM, _BAND_STREAM = 0x5EC1, 0x5EC2


class SpecAugment(nn.Module):
    """SpecAugment (Park et al. 2019) without time warping, `(B, D, T)` -> `(B, D, T)`; the identity in evaluation mode.

    Masked values become 0, the mean of normalized features. The masks of a row are a function of its key.

    Args:
        num_mels: number of mel channels D.
        time_prob: share of frames at which a time mask begins; masks may overlap. 0 turns time masks off.
        time_frames: length of a time mask in feature frames.
        bands: number of frequency masks; 0 turns them off.
        band_width: largest width of a frequency mask; widths are uniform from 0 to this number of mel channels.

    Raises:
        UserError: for values out of range.
    """

    def __init__(self, num_mels: int, time_prob: float, time_frames: int, bands: int, band_width: int) -> None:
        super().__init__()
        if bands < 0 or not 0 <= band_width <= num_mels:
            raise UserError(
                f"task.spec_augment: bands={bands}, band_width={band_width}: bands must be 0 or more, and band_width "
                f"from 0 to {num_mels}"
            )
        self.time = RandomBlockMasking(num_mels, time_prob, time_frames, mask_value=0.0, allow_overlap=True)
        self.num_mels, self.bands, self.band_width = num_mels, bands, band_width

    def forward(self, features: Tensor, frames: Tensor, keys: Tensor) -> Tensor:
        """Masks normalized features `(B, D, T)` of `frames` `(B,)` frames, with keys `(B,)`."""
        if not self.training:
            return features
        if self.time.mask_prob > 0:
            mask = self.time.sample(frames, features.shape[-1], keys=fold_keys(keys, _TIME_STREAM))
            features = self.time.apply(features, mask)
        if self.bands and self.band_width:
            features = features * self.kept(fold_keys(keys, _BAND_STREAM))[..., None]
        return features

    def kept(self, keys: Tensor) -> Tensor:
        """Returns the mel channels that are not masked, boolean `(B, D)`."""
        samples = uniform(keys, 2 * self.bands).view(len(keys), self.bands, 2)
        width = (samples[..., 0] * (self.band_width + 1)).long()
        first = (samples[..., 1] * (self.num_mels - width + 1)).long()
        mel = torch.arange(self.num_mels, device=keys.device)
        masked = (mel >= first[..., None]) & (mel < (first + width)[..., None])
        return ~masked.any(1)
