"""Live streams by number: opened, pushed, flushed, whatever computes their frames."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from streamnest.errors import UserError
from streamnest.samples import as_samples

# What may wait in a stream whose steps fail, beyond what its next step takes.
MOST_PENDING_S = 60.0


class Live(Protocol):
    """What every stream counts: samples heard, and how many there are in all once it is over."""

    heard: int
    end: int | None

    @property
    def pending(self) -> Sized:
        """Samples that no step has taken."""


StreamT = TypeVar("StreamT", bound=Live)


class LiveStreams(Generic[StreamT]):
    """The streams of a session. Who computes fills in `_fresh`, `_append`, `_run` and `_take`.

    Threads may share a session: each call holds `lock`, so that calls of several threads follow each other.

    Attributes:
        lock: for callers that need several calls in one piece; the thread that holds it may call the session.

    Raises:
        UserError: for streams that are not open.
    """

    sample_rate: int
    first_samples: int

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._streams: dict[int, StreamT] = {}
        self._next = 0

    def open(self) -> int:
        """Begins a stream; returns its number."""
        return self._add(self._fresh())

    def push(self, pieces: Mapping[int, Any]) -> dict[int, Tensor]:
        """Hears more of some streams.

        Args:
            pieces: samples `(n,)` at the model's rate, for each stream that has some; `n` may be 0. Tensors, numpy
                arrays and array-likes of the kinds that `as_samples` takes.

        Returns:
            The frames `(k, d)` that became final, for each of these streams; `k` may be 0.

        Raises:
            UserError: for a stream that is not open or that has `MOST_PENDING_S` of samples waiting because its steps
                fail, and for samples that are not what `as_samples` takes; then none has heard anything.
        """
        with self.lock:
            # All of them first: a piece that is refused must not leave others heard, which its caller will push again.
            checked = {number: self._checked(number, piece) for number, piece in pieces.items()}
            for number, piece in checked.items():
                self._append(self._streams[number], piece)
                self._streams[number].heard += len(piece)
            self._run([self._streams[number] for number in checked])
            return {number: self._take(self._streams[number]) for number in checked}

    def flush(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Ends streams: their last frames `(k, d)`, equal to those that offline gives at the end of an utterance."""
        with self.lock:
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
        with self.lock:
            self._stream(number)
            self._streams[number] = self._fresh()
            self._ended()

    def drop(self, number: int) -> None:
        """Ends a stream without its last frames."""
        with self.lock:
            self._stream(number)
            del self._streams[number]
            self._ended()

    def save(self, number: int) -> dict[str, Any]:
        """A stream as plain containers.

        Raises:
            UserError: for sessions that cannot save.
        """
        raise UserError("streams of this session cannot be saved: use a session of the checkpoint")

    def restore(self, saved: Mapping[str, Any]) -> int:
        """Opens a stream that was saved; returns its number.

        Raises:
            UserError: for sessions that cannot save.
        """
        raise UserError("streams of this session cannot be restored: use a session of the checkpoint")

    def _add(self, stream: StreamT) -> int:
        with self.lock:
            number, self._next = self._next, self._next + 1
            self._streams[number] = stream
            return number

    def _checked(self, number: int, piece: Any) -> Tensor:
        """The samples of a piece that its stream can take."""
        waiting = len(self._stream(number).pending)
        if waiting > self.first_samples + MOST_PENDING_S * self.sample_rate:
            raise UserError(
                f"stream {number} has {waiting / self.sample_rate:.0f} s of samples that no step has taken, and at "
                f"most {MOST_PENDING_S:g} s may wait: drop or reset it"
            )
        try:
            samples = as_samples(piece).detach()
        except UserError as error:
            raise UserError(f"stream {number}: {error}") from None
        if samples.is_meta:
            raise UserError(f"stream {number}: a tensor of the meta device holds no samples")
        return samples

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
