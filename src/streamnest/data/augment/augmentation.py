"""All augmentation in the order in which it is applied: speed, rooms, noise and other speakers."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf
from torch import Tensor

from streamnest.data.augment.noise_and_speakers import NoiseAndSpeakerMixing
from streamnest.data.augment.reverb import Reverberation
from streamnest.data.augment.speed import SpeedPerturbation
from streamnest.data.config import AugmentConfig


class Augmentation:
    """Makes the noisy batch from the clean one; the dataset applies `speed` to both as it loads the audio.

    Rooms come before mixing: each speaker is reverberated by the room of their own row, noise is added as it was
    recorded, and mixing ratios refer to the reverberant speech.

    Args:
        config: settings of all steps; by default those of `AugmentConfig`, which have neither rooms nor speed changes.

    Attributes:
        mixing: noise and other speakers; its `noise` may be set later.
        reverb: rooms; its `rooms` may be set later.
        speed: speed perturbation.
    """

    def __init__(self, config: AugmentConfig | None = None) -> None:
        # Resolves seeds that refer to the one of the group.
        resolved = OmegaConf.to_object(OmegaConf.structured(config or AugmentConfig()))
        assert isinstance(resolved, AugmentConfig)
        self.mixing = NoiseAndSpeakerMixing(resolved)
        self.reverb, self.speed = Reverberation(resolved.reverb), SpeedPerturbation(resolved.speed)

    def __call__(
        self,
        clean: Tensor,
        lengths: Tensor,
        ids: Sequence[str],
        step: int,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """Returns the noisy batch `(B, N)`, or `clean` itself; the arguments are those of `NoiseAndSpeakerMixing`."""
        return self.mixing(self.reverb(clean, lengths, ids, step), lengths, ids, step, speakers)
