"""Live streams by number: opened, pushed, flushed, whatever computes their frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from streamnest.errors import UserError


class Live(Protocol):
    """What every stream counts: samples heard, and how many there are in all once it is over."""

    heard: int
    end: int | None


StreamT = TypeVar("StreamT", bound=Live)


class LiveStreams(Generic[StreamT]):
    """The streams of a session. Who computes fills in `_fresh`, `_append`, `_run` and `_take`.

    Raises:
        UserError: for streams that are not open.
    """

    def __init__(self) -> None:
        self._streams: dict[int, StreamT] = {}
        self._next = 0

    def open(self) -> int:
        """Begins a stream; returns its number."""
        number, self._next = self._next, self._next + 1
        self._streams[number] = self._fresh()
        return number

    def push(self, pieces: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Hears more of some streams.

        Args:
            pieces: samples `(n,)` at the model's rate in [-1, 1], for each stream that has some; `n` may be 0.

        Returns:
            The frames `(k, d)` that became final, for each of these streams; `k` may be 0.

        Raises:
            UserError: for a stream that is not open, and for samples that are not finite; then none has heard anything.
        """
        for number, piece in pieces.items():
            self._stream(number)
            # What is not finite stays so in a sum, which is one small call where `isfinite` makes four.
            if piece.ndim != 1 or not math.isfinite(piece.sum(dtype=torch.float64)):
                raise UserError(
                    f"stream {number} was given {tuple(piece.shape)} samples: need (n,), all of them finite"
                )
        # Only now: a piece that is refused must not leave others heard, which its caller will push again.
        for number, piece in pieces.items():
            self._append(self._streams[number], piece)
            self._streams[number].heard += len(piece)
        self._run([self._streams[number] for number in pieces])
        return {number: self._take(self._streams[number]) for number in pieces}

    def flush(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Ends streams: their last frames `(k, d)`, equal to those that offline gives at the end of an utterance."""
        streams = {number: self._stream(number) for number in numbers}
        for stream in streams.values():
            stream.end = stream.heard
        self._run(list(streams.values()))
        for number in streams:
            del self._streams[number]
        self._ended()
        return {number: self._take(stream) for number, stream in streams.items()}

    def reset(self, number: int) -> None:
        """Forgets what a stream has heard; it begins anew under its number."""
        self._stream(number)
        self._streams[number] = self._fresh()
        self._ended()

    def drop(self, number: int) -> None:
        """Ends a stream without its last frames."""
        self._stream(number)
        del self._streams[number]
        self._ended()

    def _stream(self, number: int) -> StreamT:
        if number not in self._streams:
            raise UserError(f"stream {number} is not open: it was never opened, or flushed or dropped")
        return self._streams[number]

    def _ended(self) -> None:
        """After streams have ended: what they alone needed can go."""

    def _fresh(self) -> StreamT:
        raise NotImplementedError

    def _append(self, stream: StreamT, piece: Tensor) -> None:
        raise NotImplementedError

    def _run(self, streams: list[StreamT]) -> None:
        raise NotImplementedError

    def _take(self, stream: StreamT) -> Tensor:
        raise NotImplementedError
