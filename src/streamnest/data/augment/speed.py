"""Speech made faster and slower, before anything else is done to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lhotse.augmentation import Speed

from streamnest.data.audio import SAMPLING_RATE, Samples
from streamnest.data.augment.ranges import check_share
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

_STREAM = 0x5EED


class SpeedPerturbation:
    """Resamples utterances (Ko et al. 2015): tempo and pitch change, and clean and noisy audio alike.

    Samples are perturbed when they are loaded, and not cuts in the manifest: the sampler keeps one list of durations
    for all epochs, and its state a few integers. In return its limits must allow for the slowest factor.

    Every draw for an utterance depends on (seed, step, cut id) alone.

    Args:
        prob: share of utterances that are perturbed.
        factors: of speed, one of which is drawn; 1.1 is faster and shorter by a tenth.
        seed: of all draws.

    Raises:
        UserError: for a share outside [0, 1], no factors or any outside [0.5, 2].
    """

    def __init__(self, prob: float = 0.0, factors: Sequence[float] = (0.9, 1.1), seed: int = 0) -> None:
        check_share("speed.prob", prob)
        if not factors or not all(0.5 <= factor <= 2 for factor in factors):
            raise UserError(f"augment.speed.factors={list(factors)}: need one or more between 0.5 and 2")
        self.prob, self.factors, self.seed = prob, factors, seed

    @property
    def slowest(self) -> float:
        """The smallest factor that an utterance may get; 1 where none is perturbed."""
        return min(1.0, *self.factors) if self.prob else 1.0

    @property
    def fastest(self) -> float:
        """The largest factor that an utterance may get; 1 where none is perturbed."""
        return max(1.0, *self.factors) if self.prob else 1.0

    def __call__(self, audio: Samples, cut_id: str, step: int) -> Samples:
        """`audio` `(N,)` at the speed that is drawn, `(N / factor,)` rounded up; unperturbed, it is the same object."""
        rng = numpy_generator(self.seed, step, cut_id, _STREAM)
        if rng.random() >= self.prob:
            return audio
        factor = self.factors[int(rng.integers(len(self.factors)))]
        return np.ascontiguousarray(Speed(factor)(audio[None], SAMPLING_RATE)[0])
