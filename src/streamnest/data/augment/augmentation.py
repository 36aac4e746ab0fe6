"""All that is done to audio on its way to the encoder, in its order: speed, room, noise and other voices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from streamnest.data.augment.noise_and_speakers import NoiseAndSpeakerMixing
from streamnest.data.augment.reverb import Reverberation
from streamnest.data.augment.speed import SpeedPerturbation


class Augmentation:
    """What makes the noisy audio, and the speed of the clean one.

    Rooms come before mixing: voices are heard from the rooms of their own rows, noise as it was recorded, and ratios
    are those to the reverberant speech. Calling it makes the noisy batch; `speed` is for whoever loads the audio.

    Args:
        mixing: noise and other speakers.
        reverb: rooms; None for none.
        speed: None for as it is.
    """

    def __init__(
        self,
        mixing: NoiseAndSpeakerMixing,
        reverb: Reverberation | None = None,
        speed: SpeedPerturbation | None = None,
    ) -> None:
        self.mixing, self.reverb, self.speed = mixing, reverb or Reverberation(), speed or SpeedPerturbation()

    @classmethod
    def build(
        cls, reverb: Reverberation | None = None, speed: SpeedPerturbation | None = None, **mixing: Any
    ) -> Augmentation:
        """From the config group `augment`; `mixing` are the arguments of `NoiseAndSpeakerMixing`."""
        return cls(NoiseAndSpeakerMixing(**mixing), reverb, speed)

    def __call__(
        self,
        clean: Tensor,
        lengths: Tensor,
        ids: Sequence[str],
        step: int,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """The noisy batch `(B, N)`, or `clean` itself; the arguments are those of `NoiseAndSpeakerMixing`."""
        return self.mixing(self.reverb(clean, lengths, ids, step), lengths, ids, step, speakers)
