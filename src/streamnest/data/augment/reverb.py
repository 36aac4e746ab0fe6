"""Rooms around what the encoder hears; the targets keep coming from the dry audio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.augment.ranges import check_range, check_share, draw_uniform
from streamnest.data.augment.rooms import Response, RoomBank, convolve, simulate
from streamnest.randomness import numpy_generator

_STREAM = 0x2EB


class Reverberation:
    """Puts utterances into rooms, recorded ones where there are any and simulated ones elsewhere.

    The direct path arrives at once and everything else after it: speech stays aligned with its targets, and no sample
    is heard before it was spoken. Responses have energy 1, which leaves the level about as it was; nothing is measured
    on the utterance, as then its end would change its beginning. The tail beyond the end of an utterance is cut off.

    Every draw for a row depends on (seed, step, cut id) alone.

    Args:
        prob: share of rows that get a room.
        t60: range of the reverberation time of simulated rooms, in seconds.
        drr_db: range of the direct-to-reverberant energy ratio of simulated rooms.
        seed: of all draws.
        rooms: recorded responses, used as they are; may be set later.

    Raises:
        UserError: for ranges that are reversed or out of bounds.
    """

    def __init__(
        self,
        prob: float = 0.0,
        t60: Sequence[float] = (0.15, 0.8),
        drr_db: Sequence[float] = (-5.0, 15.0),
        seed: int = 0,
        rooms: RoomBank | None = None,
    ) -> None:
        check_share("reverb.prob", prob)
        check_range("reverb.t60", t60, 0.01, 5)
        check_range("reverb.drr_db", drr_db)
        self.prob, self.t60, self.drr_db = prob, t60, drr_db
        self.seed, self.rooms = seed, rooms

    def __call__(self, clean: Tensor, lengths: Tensor, ids: Sequence[str], step: int) -> Tensor:
        """Reverberates a batch.

        Args:
            clean: `(B, N)`; left as it is.
            lengths: `(B,)` valid samples.
            ids: cut ids.
            step: of the batch.

        Returns:
            `(B, N)`, zero beyond each row's length; `clean` itself when no row got a room.
        """
        heard = None
        for row, (cut_id, length) in enumerate(zip(ids, lengths.tolist())):
            response = self._response(numpy_generator(self.seed, step, cut_id, _STREAM))
            if response is not None:
                heard = clean.clone() if heard is None else heard
                heard[row, :length] = torch.from_numpy(convolve(clean[row, :length].numpy(), response))
        return clean if heard is None else heard

    def _response(self, rng: np.random.Generator) -> Response | None:
        if rng.random() >= self.prob:
            return None
        if self.rooms is not None:
            return self.rooms.draw(rng, SAMPLING_RATE)
        return simulate(rng, draw_uniform(rng, self.t60), draw_uniform(rng, self.drr_db), SAMPLING_RATE)
