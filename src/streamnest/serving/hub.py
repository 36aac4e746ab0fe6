"""Runs the steps of an engine beside the event loop, and connects its streams with clients."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from streamnest.data.resampling import BlockResampler
from streamnest.errors import UserError
from streamnest.samples import as_samples
from streamnest.serving.engine import Engine
from streamnest.serving.events import report
from streamnest.serving.outbox import Outbox
from streamnest.serving.protocol import message
from streamnest.serving.stream import BusyError, Result

Outcome = Literal["finished", "failed", "misused", "replaced", "idle", "vanished"]
# A stream that ends its connection like this may be resumed.
_RESUMABLE = ("replaced", "idle", "vanished")


@dataclass(eq=False)
class ClientStream:
    """A stream and its client.

    Attributes:
        number: number in the engine.
        key: secret that identifies the stream to a client that resumes it.
        context: name of its context.
        rate: sampling rate of its client.
        resampler: converts it to the rate of the model; None if they are equal.
        outbox: messages for the client.
        samples: samples that were received.
        connected: True while a client is connected.
        replaced: set when another connection takes the stream over.
        left: set when the connection has ended.
        warned: time of the last message about lag.
        expiry: timer that discards the stream.
    """

    number: int
    key: str
    context: str | None
    rate: int
    resampler: BlockResampler | None
    outbox: Outbox = field(default_factory=Outbox)
    samples: int = 0
    connected: bool = True
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    warned: float = float("-inf")
    expiry: asyncio.TimerHandle | None = None


class Hub:
    """Steps an engine in one thread whenever a stream is due.

    Args:
        engine: engine to step.
        threads: CPU threads of PyTorch.

    Attributes:
        draining: True after `drain` was called; new streams are refused.
    """

    def __init__(self, engine: Engine, threads: int = 1) -> None:
        self.engine, self.draining = engine, False
        # PyTorch sets the number of threads for the calling thread.
        self._executor = ThreadPoolExecutor(1, "step", lambda: torch.set_num_threads(threads))
        self._streams: dict[int, ClientStream] = {}
        self._wake, self._stepped = asyncio.Event(), asyncio.Event()

    @property
    def kept(self) -> list[ClientStream]:
        """Streams without a client, in the order in which they were opened."""
        return [stream for stream in self._streams.values() if not stream.connected]

    async def run(self) -> None:
        """Steps the engine until this task is canceled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self.engine.due:
                    self._deliver(await loop.run_in_executor(self._executor, self.engine.step))
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def open(self, context: str | None = None, rate: int | None = None) -> ClientStream:
        """Opens a stream.

        Args:
            context: name of its context; None is the default one.
            rate: sampling rate of its samples; None is that of the model.

        Raises:
            UserError: as `Engine.open`.
            BusyError: if the server is stopping or as `Engine.open`.
        """
        self._require_running()
        number = self.engine.open(context)
        key, to = secrets.token_urlsafe(24), self.engine.sample_rate
        resampler = BlockResampler(rate, to) if rate and rate != to else None
        stream = ClientStream(number, key, self.engine.served.name_of(context), rate or to, resampler)
        self._streams[number] = stream
        report("opened", stream=number, streams=len(self.engine))
        return stream

    async def resume(self, key: str, rate: int | None = None) -> ClientStream:
        """Continues a stream; a connection that it still has is ended.

        Raises:
            UserError: if no stream has this key, or if it has another sampling rate.
            BusyError: if the server is stopping or has too many streams.
        """
        if (had := self._by_key(key).rate) != (rate or had):
            raise UserError(
                f"this stream has a rate of {had}, not {rate}: resume it with the rate of its first message"
            )
        while (stream := self._by_key(key)).connected:
            stream.replaced.set()
            await stream.left.wait()
        self._require_running()
        self.engine.resume(stream.number)
        if stream.expiry:
            stream.expiry.cancel()
        stream.connected, stream.replaced, stream.left = True, asyncio.Event(), asyncio.Event()
        self.engine.statistics.count(resumed=1)
        report("resumed", stream=stream.number, streams=len(self.engine))
        return stream

    async def push(self, stream: ClientStream, samples: Any) -> None:
        """Queues samples of a stream as soon as its queue has room; does nothing once the server is stopping.

        Raises:
            UserError: as `Engine.push`.
        """
        await self.room(stream)
        if not self.draining:
            resampled = stream.resampler.push(as_samples(samples).float()) if stream.resampler else samples
            self.engine.push(stream.number, resampled)
            stream.samples += len(samples)
            self._wake.set()

    async def room(self, stream: ClientStream) -> None:
        """Waits until the queue of a stream has room."""
        while not self.engine.has_room(stream.number):
            await self._stepped.wait()

    def end(self, stream: ClientStream) -> None:
        """Ends the audio of a stream, unless it has ended."""
        if stream.resampler:
            with suppress(UserError):
                self.engine.push(stream.number, stream.resampler.end())
        with suppress(UserError):
            self.engine.end(stream.number)
        self._wake.set()

    def leave(self, stream: ClientStream, outcome: Outcome) -> None:
        """Ends the connection of a stream, which is kept for a while if its client may resume it."""
        stream.connected = False
        stream.left.set()
        report("left", stream=stream.number, outcome=outcome, samples=stream.samples)
        if outcome not in _RESUMABLE or self.draining or not self.engine.limits.keep_s:
            self.discard(stream)
            return
        self.engine.keep(stream.number)
        stream.expiry = asyncio.get_running_loop().call_later(self.engine.limits.keep_s, self.discard, stream)
        for oldest in sorted(self.kept, key=_expires)[: -self.engine.limits.streams]:
            self.discard(oldest)

    def discard(self, stream: ClientStream) -> None:
        """Forgets a stream."""
        if stream.expiry:
            stream.expiry.cancel()
        self.engine.close(stream.number)
        self._streams.pop(stream.number, None)
        self._wake.set()
        report("closed", stream=stream.number, streams=len(self.engine), kept=len(self.kept))

    async def drain(self) -> None:
        """Ends all streams, and waits until their clients have the final result, `limits.drain_s` at most."""
        self.draining = True
        report("stopping", streams=len(self.engine))
        for stream in self.kept:
            self.discard(stream)
        for stream in self._streams.values():
            self.end(stream)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.engine.limits.drain_s
        while self._streams and loop.time() < deadline:
            await asyncio.sleep(0.02)

    def _require_running(self) -> None:
        if self.draining:
            raise BusyError("the server is stopping: try again later")

    def _by_key(self, key: str) -> ClientStream:
        for stream in self._streams.values():
            if secrets.compare_digest(stream.key.encode(), key.encode()):
                return stream
        raise UserError("this stream is not kept any more: open another one")

    def _deliver(self, results: list[Result]) -> None:
        for result in results:
            if stream := self._streams.get(result.stream):
                stream.outbox.put(message(result))
        lags, load = self.engine.lags_s(), self.engine.load
        now = self.engine.clock()
        for stream in self._streams.values():
            lag = lags.get(stream.number, 0.0)
            if (lag > self.engine.limits.lag_s or load > 1) and stream.number in lags and now - stream.warned > 1.0:
                stream.warned = now
                stream.outbox.put({"type": "lag", "seconds": round(lag, 3), "load": round(load, 3)})
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()


def _expires(stream: ClientStream) -> float:
    return stream.expiry.when() if stream.expiry else 0.0
