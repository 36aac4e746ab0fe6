"""Concurrent streams of one model in common steps; it contains no network code."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.exported import ExportedModel
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.samples import as_samples
from streamnest.serving.batches import compute_batches
from streamnest.serving.limits import Limits
from streamnest.serving.load import Load
from streamnest.serving.served_model import ServedModel
from streamnest.serving.statistics import Statistics
from streamnest.serving.stream import BusyError, Result, Stream
from streamnest.streaming.adaptive import AdaptiveSettings

log = logging.getLogger(__name__)
# A stream without new results reports its progress after this much audio.
_REPORT_S = 1.0


class Engine:
    """Computes concurrent streams of one model, and steps all that have audio in one batch.

    Each stream has a bounded queue. `push`, `end` and `close` only change the queue and return at once; `step`
    computes, in any one thread. The result of a stream depends on its samples only, however they are split and whatever
    other streams do; a text equals that of `StreamingRecognizer`.

    Args:
        model: recognizer, diarizer or pretrained model, or an exported one.
        limits: limits of the queues and of the number of streams.
        clock: time in seconds.
        adaptive: settings of adaptive look-ahead, for streams whose client names no context; None for the context
            of the model.

    Attributes:
        served: the model with its sessions.
        sample_rate: sampling rate of all streams.
        statistics: counters of all streams.
    """

    def __init__(
        self,
        model: EncoderTask | ExportedModel,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        adaptive: AdaptiveSettings | None = None,
    ) -> None:
        self.served, self.limits, self.clock = ServedModel.of(model, adaptive), limits or Limits(), clock
        self.sample_rate, self.statistics = self.served.sample_rate, Statistics()
        self._load = Load(clock)
        self._streams: dict[int, Stream] = {}
        self._next = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Returns the number of streams that clients are connected to."""
        with self._lock:
            return sum(stream.counts for stream in self._streams.values())

    @property
    def load(self) -> float:
        """Time that a chunk of all open streams takes, divided by the duration of a chunk; see `Load`."""
        return self._load.value

    def open(self, context: str | None = None) -> int:
        """Opens a stream; returns its number.

        Args:
            context: name of a context of the model; None for the default one.

        Raises:
            UserError: for an unknown context.
            BusyError: if `limits.streams` are open, or if the load exceeds `limits.load`.
        """
        session, decoder = self.served.sessions[self.served.name_of(context)], self.served.decoder()
        with self._lock:
            self._require_room()
            if self.limits.load is not None and self.load > self.limits.load:
                self.statistics.count(refused=1)
                raise BusyError("the server has no time for another stream: try again later")
            number, self._next = self._next, self._next + 1
            self._streams[number] = Stream(session, decoder)
            self.statistics.count(opened=1)
            return number

    def keep(self, number: int) -> None:
        """Excludes a stream without a client from the number of open streams; does nothing if it is not open."""
        with self._lock:
            if stream := self._streams.get(number):
                stream.kept = True

    def resume(self, number: int) -> None:
        """Counts a kept stream as open again; does nothing if it is not kept.

        Raises:
            BusyError: if `limits.streams` are open.
        """
        with self._lock:
            stream = self._streams.get(number)
            if stream and stream.kept:
                self._require_room()
                stream.kept = False

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

    def lags_s(self) -> dict[int, float]:
        """Returns the seconds of audio that wait in the queue of each stream."""
        with self._lock:
            return {number: stream.queued / self.sample_rate for number, stream in self._streams.items()}

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
        frames = compute_batches(self._streams, lambda session, rows: session.push(rows), pieces)
        flushed = {number: torch.zeros(0) for number in ending if number in frames}
        last = compute_batches(self._streams, lambda session, rows: session.flush(list(rows)), flushed)
        results = []
        for number in pieces:
            computed = (last if number in ending else frames).get(number)
            parts = [frames[number], *([computed] if number in ending else [])] if computed is not None else None
            results.append(self._result(number, parts, number in ending))
        self._count(start, pieces, results, {n: len(x) for n, x in frames.items()})
        self._remove([result.stream for result in results if result.kind != "partial"], set(last))
        return [result for result in results if self._worth_sending(result)]

    def _require_room(self) -> None:
        number = sum(stream.counts for stream in self._streams.values())
        if number >= self.limits.streams:
            self.statistics.count(refused=1)
            raise BusyError(f"the server is busy with {number} streams: try again later")

    def _open(self, number: int) -> Stream:
        stream = self._streams.get(number)
        if stream is None or stream.ended or stream.closed:
            raise UserError("this stream has ended: open another one")
        return stream

    def _has_room(self, stream: Stream) -> bool:
        waiting = stream.queued / self.sample_rate
        return waiting < self.limits.queue_s and len(stream.queue) < self.limits.queue_pieces

    def _most(self, stream: Stream) -> int:
        """Returns the number of samples that a step consumes at most."""
        return max(stream.session.first_samples, round(self.limits.step_s * self.sample_rate))

    def _taken(self) -> tuple[dict[int, Tensor], set[int]]:
        """Removes closed streams; returns the next samples of each stream that is due, and the streams to flush."""
        with self._lock:
            closed = [number for number, stream in self._streams.items() if stream.closed]
        self._remove(closed, set())
        with self._lock:
            due = {number: stream for number, stream in self._streams.items() if stream.queue}
            pieces = {number: stream.take(self._most(stream)) for number, stream in due.items()}
            ending = {number for number, stream in due.items() if stream.ended and not stream.queue}
        for stream in due.values():
            if stream.row is None:
                stream.row = stream.session.open()
        return pieces, ending

    def _result(self, number: int, parts: list[Tensor] | None, ended: bool) -> Result:
        """Decodes the new frames of a stream; the result is an error if they are None, or if decoding fails."""
        stream = self._streams[number]
        seconds, fields = stream.consumed / self.sample_rate, None
        if parts is not None:
            frames = torch.cat(parts)
            stream.frames += len(frames)
            try:
                fields = stream.decoder.end(frames, seconds) if ended else stream.decoder.add(frames)
            except Exception as error:
                log.warning("decoding failed with %s", type(error).__name__)
        delay_ms = 1000 * (self.clock() - stream.arrival)
        if fields is None:
            message = {"message": "the server could not compute this stream: start again"}
            return Result(number, "error", message, seconds, stream.frames, delay_ms)
        return Result(number, "final" if ended else "partial", fields, seconds, stream.frames, delay_ms)

    def _worth_sending(self, result: Result) -> bool:
        """True for results with content, and for the progress of a stream that has not been reported for a while."""
        stream = self._streams.get(result.stream)
        if stream is None:  # it has ended
            return True
        content = any(result.fields[name] for name in result.fields if name != "first_frame")
        if content or stream.consumed - stream.reported >= _REPORT_S * self.sample_rate:
            stream.reported = stream.consumed
            return True
        return False

    def _count(self, start: float, pieces: dict[int, Tensor], results: list[Result], computed: dict[int, int]) -> None:
        """Adds a step to the statistics and to the measured load."""
        seconds, audio_s = self.clock() - start, sum(map(len, pieces.values())) / self.sample_rate
        self.statistics.stepped(seconds, len(pieces), audio_s, [result.delay_ms / 1000 for result in results])
        self.statistics.count(failed=sum(result.kind == "error" for result in results))
        sessions = {number: self._streams[number].session for number, frames in computed.items() if frames}
        if sessions:
            chunk_s = min(session.chunk_samples for session in sessions.values()) / self.sample_rate
            computed_s = sum(computed[number] * session.frame_ms for number, session in sessions.items()) / 1000
            self._load.add(seconds, chunk_s, computed_s / max(1, len(self)))

    def _remove(self, numbers: list[int], flushed: set[int]) -> None:
        """Forgets streams, and drops those from their sessions that were not flushed."""
        for number in numbers:
            stream = self._streams[number]
            if stream.row is not None and number not in flushed:
                stream.session.drop(stream.row)
        with self._lock:
            for number in numbers:
                del self._streams[number]
