"""Reverberation of the encoder's input; the targets are computed from the dry audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.augment.ranges import check_range, check_share, sample_uniform
from streamnest.data.augment.rooms import Response, RoomBank, convolve, simulate
from streamnest.data.config import ReverbConfig
from streamnest.randomness import numpy_generator

_STREAM = 0x2EB


class Reverberation:
    """Convolves utterances with room impulse responses, recorded ones if there are any and simulated ones otherwise.

    The direct path has no delay: speech stays aligned with its targets, and no output sample depends on later input.
    Responses have energy 1, which roughly preserves the level. Nothing is measured on the utterance, because then its
    end would change its beginning. The tail beyond the end of an utterance is cut off.

    All random choices for a row depend only on (seed, step, cut id).

    Args:
        config: share of rows and ranges of the simulated rooms.
        rooms: recorded responses, used as they are; may be set later.

    Raises:
        UserError: for ranges that are reversed or out of bounds.
    """

    def __init__(self, config: ReverbConfig, rooms: RoomBank | None = None) -> None:
        check_share("augment.reverb.prob", config.prob)
        check_range("augment.reverb.t60", config.t60, 0.01, 5)
        check_range("augment.reverb.drr_db", config.drr_db)
        self.prob, self.t60, self.drr_db = config.prob, config.t60, config.drr_db
        self.seed, self.rooms = config.seed, rooms

    def __call__(self, clean: Tensor, lengths: Tensor, ids: Sequence[str], step: int) -> Tensor:
        """Reverberates a batch.

        Args:
            clean: `(B, N)`; not modified.
            lengths: `(B,)` valid samples.
            ids: cut ids.
            step: step of the batch.

        Returns:
            `(B, N)`, zero beyond each row's length; `clean` itself if no row is reverberated.
        """
        wet = None
        for row, (cut_id, length) in enumerate(zip(ids, lengths.tolist())):
            response = self._response(numpy_generator(self.seed, step, cut_id, _STREAM))
            if response is not None:
                wet = clean.clone() if wet is None else wet
                wet[row, :length] = torch.from_numpy(convolve(clean[row, :length].numpy(), response))
        return clean if wet is None else wet

    def _response(self, rng: np.random.Generator) -> Response | None:
        if rng.random() >= self.prob:
            return None
        if self.rooms is not None:
            return self.rooms.sample(rng, SAMPLING_RATE)
        return simulate(rng, sample_uniform(rng, self.t60), sample_uniform(rng, self.drr_db), SAMPLING_RATE)
