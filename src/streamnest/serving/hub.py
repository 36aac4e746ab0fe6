"""Runs the steps of an engine beside the event loop, and passes its results to clients."""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

from streamnest.errors import UserError
from streamnest.serving.engine import BusyError, Engine, Result
from streamnest.serving.protocol import message

log = logging.getLogger("streamnest.serving")
LAST = ("final", "error")


class Outbox:
    """Messages that wait for a client. Partial texts are merged, so that a slow reader costs little memory."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Any]] = {}
        self._filled = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Adds a message; it replaces a waiting one of the same type."""
        before = self._waiting.get(message["type"])
        if before and message["type"] == "partial":
            message = {**message, "text": before["text"] + message["text"]}
        self._waiting[message["type"]] = message
        self._filled.set()

    async def next(self) -> dict[str, Any]:
        """Waits for the next message; the final result or an error comes last."""
        await self._filled.wait()
        kind = min(self._waiting, key=lambda kind: kind in LAST)
        message = self._waiting.pop(kind)
        if not self._waiting:
            self._filled.clear()
        return message


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
        self._outboxes: dict[int, Outbox] = {}
        self._warned: dict[int, float] = {}
        self._wake, self._stepped = asyncio.Event(), asyncio.Event()

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

    def open(self) -> tuple[int, Outbox]:
        """Opens a stream.

        Raises:
            BusyError: if the server is stopping or has too many streams.
        """
        if self.draining:
            raise BusyError("the server is stopping: try again later")
        number = self.engine.open()
        self._outboxes[number] = Outbox()
        report("opened", stream=number, streams=len(self.engine))
        return number, self._outboxes[number]

    async def push(self, number: int, samples: Any) -> None:
        """Queues samples of a stream as soon as its queue has room; does nothing once the server is stopping.

        Raises:
            UserError: as `Engine.push`.
        """
        while not self.engine.has_room(number):
            await self._stepped.wait()
        if not self.draining:
            self.engine.push(number, samples)
            self._wake.set()

    def end(self, number: int) -> None:
        """Ends a stream, unless it has ended."""
        with suppress(UserError):
            self.engine.end(number)
        self._wake.set()

    def close(self, number: int) -> None:
        """Forgets a stream."""
        self.engine.close(number)
        self._outboxes.pop(number, None)
        self._warned.pop(number, None)
        self._wake.set()
        report("closed", stream=number, streams=len(self._outboxes))

    async def drain(self) -> None:
        """Ends all streams, and waits until their clients have the final text, `limits.drain_s` at most."""
        self.draining = True
        for number in list(self._outboxes):
            self.end(number)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.engine.limits.drain_s
        while self._outboxes and loop.time() < deadline:
            await asyncio.sleep(0.02)

    def _deliver(self, results: list[Result]) -> None:
        for result in results:
            if outbox := self._outboxes.get(result.stream):
                outbox.put(message(result))
        now = asyncio.get_running_loop().time()
        for number, outbox in self._outboxes.items():
            lag = self.engine.lag_s(number)
            if lag > self.engine.limits.lag_s and now - self._warned.get(number, -1.0) > 1.0:
                self._warned[number] = now
                outbox.put({"type": "lag", "seconds": round(lag, 3)})
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()


def report(event: str, **fields: Any) -> None:
    """Logs an event as a line of JSON; it never contains audio or text of a client."""
    log.info("%s", json.dumps({"event": event, **fields}))
