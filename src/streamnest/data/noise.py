"""Noise recordings to mix into speech."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut

from streamnest.data.audio import BadAudioError, Samples, load_mono, source_name
from streamnest.errors import UserError

log = logging.getLogger(__name__)

_TRIES = 5


class NoiseBank:
    """Random stretches of noise.

    Args:
        cuts: of noise, at the sampling rate of the speech; long recordings as windows, since a cut is read whole.
        cache_size: cuts kept decoded in each process.

    Raises:
        UserError: for no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], cache_size: int = 64) -> None:
        if not cuts:
            raise UserError("the noise corpus holds no cuts")
        self.cuts, self.cache_size = cuts, cache_size
        self._cache: OrderedDict[int, Samples | None] = OrderedDict()

    def draw(self, rng: np.random.Generator, num_samples: int) -> Samples | None:
        """A stretch of a random cut from a random start, `(num_samples,)`; looped where the cut is shorter.

        Returns None when several draws in a row met unreadable noise.
        """
        for _ in range(_TRIES):
            noise = self._load(int(rng.integers(len(self.cuts))))
            if noise is not None:
                return stretch(rng, noise, num_samples)
        return None

    def _load(self, index: int) -> Samples | None:
        if index not in self._cache:
            self._cache[index] = self._read(self.cuts[index])
            if len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index]

    def _read(self, cut: Cut) -> Samples | None:
        try:
            return load_mono(cut)
        except BadAudioError as error:
            log.warning("noise %s is not used: %s", source_name(cut), error)
            return None


def stretch(rng: np.random.Generator, source: Samples, num_samples: int) -> Samples:
    """`num_samples` of a source from a random start; a source that is too short is looped from anywhere in it."""
    room = len(source) - num_samples
    start = int(rng.integers(room + 1 if room >= 0 else len(source)))
    if room >= 0:
        return source[start : start + num_samples]
    return np.take(source, np.arange(start, start + num_samples), mode="wrap")
