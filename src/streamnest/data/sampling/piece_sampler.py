"""Sampler of pieces of recordings, a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from streamnest.data.sampling.durations import Durations
from streamnest.errors import UserError
from streamnest.randomness import numpy_generator

# A recording that exceeds its last piece by less than this gets no further piece, in seconds.
SHORTEST_PIECE_S = 0.1


class Piece(NamedTuple):
    """A piece of a recording.

    Attributes:
        recording: index of the recording.
        number: number of the piece in its recording.
        first: True if a stream begins with this piece.
        last: True if the recording ends with this piece.
    """

    recording: int
    number: int
    first: bool
    last: bool


class PieceIndex(NamedTuple):
    """Request of a sampler to a dataset: the step, and one piece for each row of the batch."""

    step: int
    pieces: list[Piece]


class _Ring(NamedTuple):
    """Order of an epoch: its recordings, the number of pieces up to the end of each, and where the first row starts."""

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    start: int


class PieceSampler(Sampler[PieceIndex]):
    """Endless batches in which each row follows recordings from piece to piece.

    In each epoch, the recordings in a new random order form one ring of pieces. The rows of all processes start at
    evenly spaced places of it and advance by one piece per step, so that an epoch has every piece once, apart from a
    few that occur twice to fill the last step. A row that starts inside a recording begins a stream there.

    Args:
        durations: `(N,)` seconds, an array or `Durations`.
        piece_s: seconds of a piece.
        rows: rows of a batch of one process.
        num_batches: number of steps in the whole run; None for one epoch.
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of processes.
        digest: returns a checksum of the training set, which is compared on resume.

    Attributes:
        epoch_steps: steps of an epoch.
        streams: rows of all processes.

    Raises:
        UserError: for an empty training set, and for batches without rows.
    """

    def __init__(
        self,
        durations: Durations,
        piece_s: float,
        rows: int,
        num_batches: int | None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        digest: Callable[[], str] = str,
    ) -> None:
        if rows < 1 or not len(durations):
            raise UserError(
                f"data.batch_duration holds {rows} pieces of {piece_s:g} s, and there are {len(durations)} recordings: "
                "raise data.batch_duration to data.piece_s or more, and give at least one recording"
            )
        seconds = np.asarray(durations[0 : len(durations)], np.float64)
        self._counts = np.maximum(1, np.ceil((seconds - SHORTEST_PIECE_S) / piece_s)).astype(np.int64)
        self.piece_s, self.rows, self.streams = piece_s, rows, rows * world_size
        self.epoch_steps = math.ceil(int(self._counts.sum()) / self.streams)
        self.num_batches = self.epoch_steps if num_batches is None else num_batches
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._digest = cache(digest)
        self._arranged: tuple[int, _Ring] | None = None
        self._start = self._num_returned = 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[PieceIndex]:
        start, self._num_returned = self._start, 0
        for step in range(start, self.num_batches):
            self._num_returned = step + 1 - start
            yield PieceIndex(step, self.pieces(step))

    def pieces(self, step: int) -> list[Piece]:
        """Returns the pieces of this process at a step."""
        epoch, within = divmod(step, self.epoch_steps)
        ring = self._ring(epoch)
        streams = self.rank * self.rows + np.arange(self.rows)
        places = (ring.start + streams * self.epoch_steps + within) % int(ring.ends[-1])
        at = np.searchsorted(ring.ends, places, side="right")
        recordings = ring.order[at]
        counts = self._counts[recordings]
        numbers = places - (ring.ends[at] - counts)
        rows = zip(recordings.tolist(), numbers.tolist(), counts.tolist(), strict=True)
        return [Piece(one, n, first=within == 0 or n == 0, last=n == count - 1) for one, n, count in rows]

    def state_dict(self, num_batches: int | None = None) -> dict[str, Any]:
        """Returns the position after `num_batches` batches; None for those that the latest iterator has returned."""
        done = self._num_returned if num_batches is None else num_batches
        return {"step": self._start + done, **self._data()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iterator continue at a stored position.

        Raises:
            UserError: if the state is not valid, or belongs to other data: the carried states would not fit the audio.
        """
        if "piece_s" not in state:
            raise UserError(
                f"the checkpoint was trained on utterances, and this run has data.piece_s={self.piece_s:g}: start from "
                "its weights with init_from"
            )
        step = state.get("step")
        if type(step) is not int or not 0 <= step < 1 << 62:
            raise UserError("the position in the data is not valid in the checkpoint: continue from another checkpoint")
        changed = [_NAMES[key] for key, value in self._data().items() if state.get(key) != value]
        if changed:
            raise UserError(
                f"{', '.join(changed)} changed since the checkpoint, and streams cannot continue in other recordings: "
                "restore the values, or start from its weights with init_from"
            )
        self._start, self._num_returned = step, 0

    def _ring(self, epoch: int) -> _Ring:
        if self._arranged is None or self._arranged[0] != epoch:
            rng = numpy_generator(self.seed, epoch, "recordings")
            order = rng.permutation(len(self._counts))
            ends = np.cumsum(self._counts[order])
            # One long recording is divided at other places in each epoch.
            self._arranged = epoch, _Ring(order, ends, int(rng.integers(ends[-1])))
        return self._arranged[1]

    def _data(self) -> dict[str, Any]:
        """Returns what the pieces of a step depend on, which must not change on resume."""
        return {"piece_s": self.piece_s, "streams": self.streams, "seed": self.seed, "data": self._digest()}


# Names of the compared values in messages.
_NAMES = {
    "piece_s": "data.piece_s",
    "streams": "the number of streams (data.batch_duration or processes)",
    "seed": "data.seed",
    "data": "ids or durations of the training set",
}
