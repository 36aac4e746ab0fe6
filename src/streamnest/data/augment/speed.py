"""Speed perturbation, which comes before all other augmentation."""

from __future__ import annotations

import math

import numpy as np
from lhotse.augmentation import Speed

from streamnest.data.audio import SAMPLING_RATE, Samples
from streamnest.data.augment.ranges import check_share
from streamnest.data.config import SpeedConfig
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

_STREAM = 0x5EED


class SpeedPerturbation:
    """Resamples utterances (Ko et al. 2015), which changes tempo and pitch of clean and noisy audio alike.

    Samples are perturbed as they are loaded, instead of cuts in the manifest: the sampler needs only one list of
    durations for all epochs, and its state stays a few integers. In return, the limits of the sampler must leave room
    for the slowest factor. A factor with which an utterance would leave `limits` is not applied to it.

    All random choices for an utterance depend only on (seed, step, cut id).

    Args:
        config: share and factors.

    Attributes:
        limits: shortest and longest perturbed utterance in seconds; may be set later.

    Raises:
        UserError: for a share outside [0, 1], no factors, or factors outside [0.5, 2].
    """

    def __init__(self, config: SpeedConfig) -> None:
        check_share("augment.speed.prob", config.prob)
        if not config.factors or not all(0.5 <= factor <= 2 for factor in config.factors):
            raise UserError(f"augment.speed.factors={list(config.factors)}: need one or more between 0.5 and 2")
        self.prob, self.factors, self.seed = config.prob, config.factors, config.seed
        self.limits = (0.0, math.inf)

    @property
    def slowest(self) -> float:
        """The smallest factor that an utterance may get; 1 if no utterance is perturbed."""
        return min(1.0, *self.factors) if self.prob else 1.0

    @property
    def fastest(self) -> float:
        """The largest factor that an utterance may get; 1 if no utterance is perturbed."""
        return max(1.0, *self.factors) if self.prob else 1.0

    @property
    def mean_stretch(self) -> float:
        """Mean factor by which durations change."""
        return 1 + self.prob * (sum(1 / factor for factor in self.factors) / len(self.factors) - 1)

    def __call__(self, audio: Samples, cut_id: str, step: int) -> Samples:
        """Returns `audio` `(N,)` at a random speed, `(ceil(N / factor),)`; if unperturbed, the same object."""
        rng = numpy_generator(self.seed, step, cut_id, _STREAM)
        if rng.random() >= self.prob:
            return audio
        factor = self.factors[int(rng.integers(len(self.factors)))]
        shortest, longest = self.limits
        if not shortest <= len(audio) / SAMPLING_RATE / factor <= longest:
            return audio
        return np.ascontiguousarray(Speed(factor)(audio[None], SAMPLING_RATE)[0])
