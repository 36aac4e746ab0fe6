"""Interface of streaming sessions: `open`, `push`, `flush`, whichever runtime computes the frames.

The interface has a module of its own because two sessions share it: `StreamingSession` (PyTorch) and `OnnxSession`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.samples import as_samples

# Upper bound on the samples that a stream may accumulate while its steps fail, beyond those of its next step.
MOST_PENDING_S = 60.0


class Stream(Protocol):
    """Counters of a stream: samples received so far, and the total number once the stream has ended."""

    num_samples_in: int
    end: int | None

    @property
    def pending(self) -> Sized:
        """Samples that were received but not processed yet."""


StreamT = TypeVar("StreamT", bound=Stream)


class Session(Generic[StreamT]):
    """Concurrent streams, each addressed by its number. Subclasses define `_new`, `_append`, `_run` and `_take`.

    Threads may share a session: each call holds `lock`, so that calls from several threads are serialized.

    Attributes:
        lock: reentrant lock for callers that need several calls to be atomic.
        sample_rate: samples per second.
        first_samples: samples that the first step of a stream consumes.
        chunk_samples: samples that each later step consumes.
        frame_ms: stride of the encoder.
        target_shift: encoder frames that a stream emits before the first target frame (`FastConformer.target_shift`).

    Raises:
        UserError: for streams that are not open.
    """

    sample_rate: int
    first_samples: int
    chunk_samples: int
    frame_ms: float
    target_shift: int

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._streams: dict[int, StreamT] = {}
        self._next = 0

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        raise NotImplementedError

    @property
    def cap_frames(self) -> int | None:
        """Leading frames of a stream that equal offline ones if the left context is unlimited; None if all do."""
        raise NotImplementedError

    def windowed(self, number: int) -> bool:
        """True if a stream with unlimited left context has outgrown the cap and uses a window of its past."""
        raise NotImplementedError

    def open(self) -> int:
        """Opens a stream; returns its number."""
        return self._add(self._new())

    def push(self, pieces: Mapping[int, Any]) -> dict[int, Tensor]:
        """Appends samples to streams and runs all steps that are due.

        Args:
            pieces: samples `(n,)` at the model's rate for each stream that received some; `n` may be 0. Tensors, numpy
                arrays and array-likes of the types that `as_samples` accepts.

        Returns:
            The frames `(k, d)` that became final, for each of these streams; `k` may be 0.

        Raises:
            UserError: for a stream that is not open or that has `MOST_PENDING_S` of pending samples because its steps
                fail, and for samples that `as_samples` refuses; then no stream has received anything.
        """
        with self.lock:
            # All are checked first: if one piece is refused, the caller will push the others again.
            checked = {number: self._checked(number, piece) for number, piece in pieces.items()}
            for number, piece in checked.items():
                self._append(self._streams[number], piece)
                self._streams[number].num_samples_in += len(piece)
            self._run([self._streams[number] for number in checked])
            return {number: self._take(self._streams[number]) for number in checked}

    def flush(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Ends streams; returns their last frames `(k, d)`, equal to the offline frames at the end of an utterance."""
        with self.lock:
            streams = {number: self._stream(number) for number in numbers}
            for stream in streams.values():
                stream.end = stream.num_samples_in
            self._run(list(streams.values()))
            for number in streams:
                del self._streams[number]
            self._ended()
            return {number: self._take(stream) for number, stream in streams.items()}

    def reset(self, number: int) -> None:
        """Discards the state of a stream and restarts it under the same number."""
        with self.lock:
            self._stream(number)
            self._streams[number] = self._new()
            self._ended()

    def drop(self, number: int) -> None:
        """Closes a stream without computing its last frames."""
        with self.lock:
            self._stream(number)
            del self._streams[number]
            self._ended()

    def save(self, number: int) -> dict[str, Any]:
        """Returns the state of a stream as plain containers.

        Raises:
            UserError: for sessions that cannot save.
        """
        raise UserError("streams of this session cannot be saved: use a session of the checkpoint")

    def restore(self, saved: Mapping[str, Any]) -> int:
        """Opens a stream from a saved state; returns its number.

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
        """Returns a piece as a tensor of samples if its stream may receive it."""
        pending = len(self._stream(number).pending)
        if pending > self.first_samples + MOST_PENDING_S * self.sample_rate:
            raise UserError(
                f"stream {number} has {pending / self.sample_rate:.0f} s of unprocessed samples, and at most "
                f"{MOST_PENDING_S:g} s may be pending: drop or reset the stream"
            )
        try:
            samples = as_samples(piece).detach()
        except UserError as error:
            raise UserError(f"stream {number}: {error}") from None
        if samples.is_meta:
            raise UserError(f"stream {number}: a tensor on the meta device has no samples")
        return samples

    def _stream(self, number: int) -> StreamT:
        if number not in self._streams:
            raise UserError(f"stream {number} is not open: it was never opened, or it was flushed or dropped")
        return self._streams[number]

    def _ended(self) -> None:
        """Releases what only the streams that have ended needed."""

    def _new(self) -> StreamT:
        raise NotImplementedError

    def _append(self, stream: StreamT, piece: Tensor) -> None:
        raise NotImplementedError

    def _run(self, streams: list[StreamT]) -> None:
        raise NotImplementedError

    def _take(self, stream: StreamT) -> Tensor:
        raise NotImplementedError
