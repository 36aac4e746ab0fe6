"""A cache of recordings to sample from: noise, room impulse responses."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from lhotse.cut import Cut

from streamnest.data.audio import BadAudioError, Channel, Samples, load_mono, source_name
from streamnest.errors import UserError

log = logging.getLogger(__name__)

_TRIES = 5


class RecordingBank:
    """Samples whole recordings.

    Args:
        cuts: recordings at the sampling rate of the speech.
        kind: name of this kind of recordings in messages.
        channel: "mix" averages the channels of a file, "first" or a number, from 0, selects one.
        cache_size: number of decoded cuts that each process keeps.

    Raises:
        UserError: if there are no cuts.
    """

    def __init__(self, cuts: Sequence[Cut], kind: str, channel: Channel = "mix", cache_size: int = 64) -> None:
        if not cuts:
            raise UserError(f"the {kind} corpus has no cuts")
        self.cuts, self.kind, self.channel, self.cache_size = cuts, kind, channel, cache_size
        self._cache: OrderedDict[int, Samples | None] = OrderedDict()

    def pick(self, rng: np.random.Generator) -> Samples | None:
        """Samples a recording, `(N,)`; None if several in a row are unreadable."""
        for _ in range(_TRIES):
            audio = self._load(int(rng.integers(len(self.cuts))))
            if audio is not None:
                return audio
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
            return load_mono(cut, self.channel)
        except BadAudioError as error:
            log.warning("%s %s is not used: %s", self.kind, source_name(cut), error)
            return None
