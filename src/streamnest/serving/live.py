"""Live streams over WebSockets: audio in, messages out."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamnest.errors import UserError
from streamnest.serving import protocol
from streamnest.serving.access import Access
from streamnest.serving.events import report
from streamnest.serving.hub import ClientStream, Hub, Outcome
from streamnest.serving.outbox import LAST
from streamnest.serving.protocol import Hello


class LateError(UserError):
    """A client sent nothing for too long."""


class ReplacedError(UserError):
    """Another connection has resumed the stream."""


class LiveStreams:
    """Serves live streams, each on a WebSocket.

    Args:
        hub: hub of the engine.
        access: rules of access.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        self.hub, self.access, self.limits = hub, access, hub.engine.limits
        self.rate = hub.engine.sample_rate

    async def serve(self, socket: WebSocket) -> None:
        """Serves one live stream until its connection ends."""
        if refusal := self.access.refusal(socket.headers):
            report("refused", reason="access")
            await socket.close(1008, refusal)
            return
        await socket.accept()
        try:
            await self._serve(socket)
        except UserError as error:
            with suppress(asyncio.TimeoutError, WebSocketDisconnect, RuntimeError):
                await asyncio.wait_for(self._send(socket, protocol.error(str(error))), self.limits.send_s)
        except (WebSocketDisconnect, asyncio.TimeoutError):
            pass

    async def _serve(self, socket: WebSocket) -> None:
        try:
            hello = await self._hello(socket)
            stream = await (self.hub.resume(hello.resume, hello.rate) if hello.resume else self._opened(hello))
        except UserError as error:
            report("refused", reason=type(error).__name__)
            raise
        outcome: Outcome = "vanished"
        try:
            await socket.send_json(self._ready(stream, bool(hello.resume)))
            outcome = await self._converse(socket, stream, hello)
        except LateError:
            outcome = "idle"
            raise
        except ReplacedError:
            outcome = "replaced"
            raise
        except UserError:
            outcome = "misused"
            raise
        finally:
            self.hub.leave(stream, outcome)

    async def _opened(self, hello: Hello) -> ClientStream:
        return self.hub.open(hello.context, hello.rate)

    def _ready(self, stream: ClientStream, resumed: bool) -> dict[str, Any]:
        served = self.hub.engine.served
        message = protocol.ready(served, stream.context, stream.key if self.limits.keep_s else None)
        return message | (protocol.resumed(served.kind, stream.samples, stream.outbox.so_far) if resumed else {})

    async def _hello(self, socket: WebSocket) -> Hello:
        wait = self.limits.hello_s
        message = await _received(socket, wait, f"no first message came for {wait:g} s")
        hello = Hello.parse(message.get("text"), self.rate)
        if not (self.access.accepts(hello.token) or self.access.accepts_header(socket.headers)):
            raise UserError("the token is missing or wrong")
        return hello

    async def _converse(self, socket: WebSocket, stream: ClientStream, hello: Hello) -> Outcome:
        """Reads and writes at the same time until the last message was sent; returns how the stream has ended."""
        reader = asyncio.create_task(self._read(socket, stream, hello))
        writer = asyncio.create_task(self._write(socket, stream))
        replaced = asyncio.create_task(stream.replaced.wait())
        tasks: set[asyncio.Task[Any]] = {reader, writer, replaced}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not writer.done() and not replaced.done():
                reader.result()
                idle_s = self.limits.idle_s
                await asyncio.wait({writer, replaced}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                raise (
                    ReplacedError("the stream was resumed on another connection")
                    if replaced.done()
                    else (asyncio.TimeoutError)
                )
            if writer.result() == "error":
                return "failed"
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            confirmation = asyncio.create_task(self._confirmed(socket))
            tasks.add(confirmation)
            await asyncio.wait({confirmation, replaced}, return_when=asyncio.FIRST_COMPLETED)
            return "finished" if confirmation.done() and confirmation.result() else "vanished"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _confirmed(self, socket: WebSocket) -> bool:
        """Waits until the client confirms the end of the connection, which means that it has the final result."""
        with suppress(asyncio.TimeoutError, RuntimeError):
            while True:
                message = await asyncio.wait_for(socket.receive(), self.limits.send_s)
                if message["type"] == "websocket.disconnect":
                    return message.get("code") == 1000
        return False

    async def _read(self, socket: WebSocket, stream: ClientStream, hello: Hello) -> None:
        limits, clock = self.limits, asyncio.get_running_loop().time
        last = clock()
        while True:
            wait = max(0.0, last + limits.idle_s - clock())
            message = await _received(socket, wait, f"no audio came for {limits.idle_s:g} s")
            data = message.get("bytes")
            if data is None:
                protocol.require_end(message.get("text"))
                await self.hub.room(stream)
                self.hub.end(stream)
                return
            if len(data) > limits.message_bytes:
                raise UserError(f"a message of {len(data)} bytes is too large: the limit is {limits.message_bytes}")
            if data:
                await self.hub.push(stream, hello.samples(data))
                last = clock()

    async def _write(self, socket: WebSocket, stream: ClientStream) -> str:
        """Sends the messages of a stream; returns the type of the last one.

        Raises:
            asyncio.TimeoutError: if the client reads nothing for too long.
        """
        while True:
            message = await stream.outbox.next()
            await asyncio.wait_for(self._send(socket, message), self.limits.idle_s)
            if message["type"] in LAST:
                return str(message["type"])

    async def _send(self, socket: WebSocket, message: dict[str, Any]) -> None:
        await socket.send_json(message)
        if message["type"] in LAST:
            await socket.close(1000 if message["type"] == "final" else 1008)


async def _received(socket: WebSocket, seconds: float, late: str) -> dict[str, Any]:
    """Returns the next message of a client.

    Raises:
        LateError: with the text `late`, if none comes in time.
        WebSocketDisconnect: if the client is gone.
    """
    try:
        message = await asyncio.wait_for(socket.receive(), seconds)
    except asyncio.TimeoutError:
        raise LateError(late) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return dict(message)
