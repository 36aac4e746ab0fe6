"""Recognition of concurrent streams in common steps; it contains no network code."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import IncrementalDecoder
from streamnest.downstream.exported import ExportedRecognizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.errors import UserError
from streamnest.samples import as_samples
from streamnest.serving.limits import Limits
from streamnest.serving.statistics import Statistics

log = logging.getLogger(__name__)


class BusyError(UserError):
    """The server has as many streams as it may have."""


@dataclass(frozen=True)
class Result:
    """Result of a step for one stream.

    Attributes:
        stream: number of the stream.
        kind: `partial` for new text; `final` for the whole text of a stream that has ended; `error`.
        text: the text, or the error in a sentence.
        seconds: audio of the stream that has been consumed.
        delay_ms: time from the arrival of the last of these samples to the result.
    """

    stream: int
    kind: Literal["partial", "final", "error"]
    text: str
    seconds: float
    delay_ms: float = 0.0


@dataclass
class _Stream:
    decoder: IncrementalDecoder
    queue: deque[tuple[Tensor, float]] = field(default_factory=deque)  # samples and the time of their arrival
    queued: int = 0
    consumed: int = 0
    ended: bool = False
    closed: bool = False
    arrival: float = 0.0  # of the last consumed piece

    def take(self, most: int) -> Tensor:
        """Removes up to `most` samples from the queue."""
        taken, missing = [torch.zeros(0)], most
        while self.queue and missing > 0:
            piece, self.arrival = self.queue.popleft()
            if len(piece) > missing:
                self.queue.appendleft((piece[missing:], self.arrival))
            taken.append(piece[:missing])
            missing -= len(taken[-1])
        self.queued -= most - missing
        self.consumed += most - missing
        return torch.cat(taken)


class Engine:
    """Transcribes concurrent streams of one model, and steps all that have audio in one batch.

    Each stream has a bounded queue. `push`, `end` and `close` only change the queue and return at once; `step`
    computes, in any one thread. The text of a stream equals that of `StreamingRecognizer` on the same samples, however
    they are split and whatever other streams do.

    Args:
        model: recognizer, or an exported one.
        limits: limits of the queues and of the number of streams.
        clock: time in seconds.

    Attributes:
        sample_rate: sampling rate of all streams.
        statistics: counters of all streams.
    """

    def __init__(
        self,
        model: TextTask | ExportedRecognizer,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.limits, self.clock = model, limits or Limits(), clock
        self.session = session_of(model, STREAM_LEFT_MS)
        self.sample_rate, self.statistics = model.sample_rate, Statistics()
        self._most = max(self.session.first_samples, round(self.limits.step_s * self.sample_rate))
        self._streams: dict[int, _Stream] = {}
        self._rows: dict[int, int] = {}  # number in the session, which only `step` uses
        self._next = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self) -> int:
        """Opens a stream; returns its number.

        Raises:
            BusyError: if `limits.streams` are open.
        """
        decoder = IncrementalDecoder(self.model)
        with self._lock:
            if len(self._streams) >= self.limits.streams:
                self.statistics.count(refused=1)
                raise BusyError(f"the server is busy with {len(self._streams)} streams: try again later")
            number, self._next = self._next, self._next + 1
            self._streams[number] = _Stream(decoder)
            self.statistics.count(opened=1)
            return number

    def push(self, number: int, samples: Any) -> None:
        """Queues samples `(n,)` of a stream.

        Raises:
            UserError: for samples that `as_samples` refuses, for a full queue, and for a stream that is not open.
        """
        piece = as_samples(samples).detach().float()
        with self._lock:
            stream = self._open(number)
            if not self._has_room(stream):
                raise UserError(
                    f"{self.limits.queue_s:g} s of audio are waiting, which is the limit: send the audio more slowly"
                )
            if len(piece):
                stream.queue.append((piece, self.clock()))
                stream.queued += len(piece)

    def end(self, number: int) -> None:
        """Marks the end of a stream; a later step returns its final result.

        Raises:
            UserError: for a stream that is not open.
        """
        with self._lock:
            stream = self._open(number)
            stream.ended = True
            stream.queue.append((torch.zeros(0), self.clock()))

    def close(self, number: int) -> None:
        """Discards a stream without a result; does nothing if it is not open."""
        with self._lock:
            if stream := self._streams.get(number):
                stream.closed = True

    def has_room(self, number: int) -> bool:
        """Returns True if the queue of a stream accepts samples, or if the stream is not open."""
        with self._lock:
            stream = self._streams.get(number)
            return stream is None or self._has_room(stream)

    def lag_s(self, number: int | None = None) -> float:
        """Returns the seconds of audio that wait in the queue of a stream; by default in the longest queue."""
        with self._lock:
            chosen = [stream for key, stream in self._streams.items() if number in (None, key)]
            return max((stream.queued for stream in chosen), default=0) / self.sample_rate

    @property
    def due(self) -> bool:
        """True if a step has something to do."""
        with self._lock:
            return any(stream.queue or stream.closed for stream in self._streams.values())

    def step(self) -> list[Result]:
        """Consumes queued audio of all streams in one batch; returns new text, final texts and errors.

        A stream that fails is dropped, and the others get the results that they would have had without it.
        """
        pieces, ending = self._taken()
        if not pieces:
            return []
        start = self.clock()
        frames = self._computed(self.session.push, pieces)
        last = self._computed(
            lambda rows: self.session.flush(list(rows)), {n: torch.zeros(0) for n in ending if n in frames}
        )
        lost = [number for number in pieces if number not in (last if number in ending else frames)]
        texts = {n: self._decoded(n, [frames[n], *([last[n]] if n in last else [])]) for n in pieces if n not in lost}
        now = self.clock()
        results = [self._result(number, texts.get(number), number in ending, now) for number in pieces]
        audio_s = sum(map(len, pieces.values())) / self.sample_rate
        self.statistics.stepped(now - start, len(pieces), audio_s, [result.delay_ms / 1000 for result in results])
        self.statistics.count(failed=sum(result.kind == "error" for result in results))
        self._remove([result.stream for result in results if result.kind != "partial"], set(last))
        return [result for result in results if result.text or result.kind == "final"]

    def _open(self, number: int) -> _Stream:
        stream = self._streams.get(number)
        if stream is None or stream.ended or stream.closed:
            raise UserError("this stream has ended: open another one")
        return stream

    def _has_room(self, stream: _Stream) -> bool:
        waiting = stream.queued / self.sample_rate
        return waiting < self.limits.queue_s and len(stream.queue) < self.limits.queue_pieces

    def _taken(self) -> tuple[dict[int, Tensor], set[int]]:
        """Removes closed streams; returns the next samples of each stream that is due, and the streams to flush."""
        closed = [number for number, stream in list(self._streams.items()) if stream.closed]
        self._remove(closed, set())
        with self._lock:
            due = {number: stream for number, stream in self._streams.items() if stream.queue}
            pieces = {number: stream.take(self._most) for number, stream in due.items()}
            ending = {number for number, stream in due.items() if stream.ended and not stream.queue}
        for number in pieces:
            if number not in self._rows:
                self._rows[number] = self.session.open()
        return pieces, ending

    def _computed(
        self, compute: Callable[[dict[int, Tensor]], dict[int, Tensor]], pieces: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """Computes the frames of each stream; streams that fail are missing.

        If the batch fails, each stream is computed alone, so that only those that cause the failure are lost.
        """
        if not pieces:
            return {}
        try:
            return self._in_batch(compute, pieces)
        except Exception as error:  # whatever a computation raises must not end other streams
            log.warning("a step of %d streams failed with %s", len(pieces), type(error).__name__)
        frames = dict[int, Tensor]()
        for number in pieces:
            with suppress(Exception):
                # The session has queued the samples of all streams before the step that failed.
                frames |= self._in_batch(compute, {number: torch.zeros(0)})
        return frames

    def _in_batch(
        self, compute: Callable[[dict[int, Tensor]], dict[int, Tensor]], pieces: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        frames = compute({self._rows[number]: piece for number, piece in pieces.items()})
        return {number: frames[self._rows[number]] for number in pieces}

    def _decoded(self, number: int, parts: list[Tensor]) -> str | None:
        """Returns the new text of a stream; None if decoding fails."""
        try:
            return self._streams[number].decoder.add(torch.cat(parts))
        except Exception as error:
            log.warning("decoding failed with %s", type(error).__name__)
            return None

    def _result(self, number: int, text: str | None, ended: bool, now: float) -> Result:
        stream = self._streams[number]
        times = stream.consumed / self.sample_rate, 1000 * (now - stream.arrival)
        if text is None:
            return Result(number, "error", "the server could not compute this stream: start again", *times)
        if ended:
            return Result(number, "final", stream.decoder.text, *times)
        return Result(number, "partial", text, *times)

    def _remove(self, numbers: list[int], flushed: set[int]) -> None:
        """Forgets streams, and drops those from the session that it has not flushed."""
        for number in numbers:
            row = self._rows.pop(number, None)
            if row is not None and number not in flushed:
                self.session.drop(row)
        with self._lock:
            for number in numbers:
                del self._streams[number]
