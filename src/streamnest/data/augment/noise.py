"""Noise recordings to mix into speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut

from streamnest.data.audio import Samples
from streamnest.data.augment.recordings import RecordingBank


class NoiseBank(RecordingBank):
    """Samples random excerpts of noise recordings.

    Args:
        cuts: noise at the sampling rate of the speech. Split long recordings into windows: a cut is decoded whole.
        cache_size: number of decoded cuts that each process keeps.

    Raises:
        UserError: if there are no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], cache_size: int = 64) -> None:
        super().__init__(cuts, "noise", cache_size=cache_size)

    def sample(self, rng: np.random.Generator, num_samples: int) -> Samples | None:
        """Samples a cut and an excerpt of it, `(num_samples,)`; a shorter cut is looped.

        Returns None if several sampled cuts in a row are unreadable.
        """
        noise = self.pick(rng)
        return None if noise is None else excerpt(rng, noise, num_samples)


def excerpt(rng: np.random.Generator, source: Samples, num_samples: int) -> Samples:
    """Returns `num_samples` of a source from a random start; a source that is too short is looped."""
    excess = len(source) - num_samples
    start = int(rng.integers(excess + 1 if excess >= 0 else len(source)))
    if excess >= 0:
        return source[start : start + num_samples]
    return np.take(source, np.arange(start, start + num_samples), mode="wrap")
