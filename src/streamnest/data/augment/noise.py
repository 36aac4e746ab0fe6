"""Noise recordings to mix into speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut

from streamnest.data.audio import Samples
from streamnest.data.augment.recordings import RecordingBank


class NoiseBank(RecordingBank):
    """Random stretches of noise.

    Args:
        cuts: of noise, at the sampling rate of the speech; long recordings as windows, since a cut is read whole.
        cache_size: cuts kept decoded in each process.

    Raises:
        UserError: for no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], cache_size: int = 64) -> None:
        super().__init__(cuts, "noise", cache_size=cache_size)

    def draw(self, rng: np.random.Generator, num_samples: int) -> Samples | None:
        """A stretch of a random cut from a random start, `(num_samples,)`; looped where the cut is shorter.

        Returns None when several draws in a row met unreadable noise.
        """
        noise = self.pick(rng)
        return None if noise is None else stretch(rng, noise, num_samples)


def stretch(rng: np.random.Generator, source: Samples, num_samples: int) -> Samples:
    """`num_samples` of a source from a random start; a source that is too short is looped from anywhere in it."""
    room = len(source) - num_samples
    start = int(rng.integers(room + 1 if room >= 0 else len(source)))
    if room >= 0:
        return source[start : start + num_samples]
    return np.take(source, np.arange(start, start + num_samples), mode="wrap")
