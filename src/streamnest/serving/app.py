"""HTTP and WebSocket endpoints of a server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import soundfile
import torch
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamnest.errors import UserError
from streamnest.serving import protocol
from streamnest.serving.access import Access
from streamnest.serving.engine import BusyError
from streamnest.serving.hub import LAST, Hub, Outbox, report
from streamnest.serving.protocol import Hello
from streamnest.streaming.audio_sources import load_audio

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_PAGE = {
    "" if file.name == "index.html" else file.name: (file.name, _KINDS[Path(file.name).suffix])
    for file in (files("streamnest.serving") / "page").iterdir()
    if Path(file.name).suffix in _KINDS
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# Files that are decoded and transcribed at the same time.
_FILES_AT_ONCE = 2
_PIECE = 3200


class TooLargeError(UserError):
    """An uploaded file is larger or longer than allowed."""


class Service:
    """Endpoints of a server; `app` has them all.

    Args:
        hub: hub of the engine.
        access: rules of access.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        self.hub, self.access, self.limits = hub, access, hub.engine.limits
        self.rate = hub.engine.sample_rate
        self.ready = protocol.ready(hub.engine.model, self.rate)
        self._stepping: asyncio.Task[None] | None = None
        self._files = asyncio.Semaphore(_FILES_AT_ONCE)
        self.app = Starlette(
            routes=[
                WebSocketRoute("/stream", self.stream),
                Route("/transcribe", self.transcribe, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/metrics", self.metrics),
                *(Route(f"/{name}", _page(*entry)) for name, entry in _PAGE.items()),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._stepping = asyncio.create_task(self.hub.run())
        yield
        self._stepping.cancel()

    async def healthz(self, _: Request) -> Response:
        """Returns status 200 if the server accepts streams, and 503 if it is stopping or its steps have ended."""
        failed = self._stepping is None or self._stepping.done()
        status = "failed" if failed else "stopping" if self.hub.draining else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics for Prometheus."""
        if refused := self._refused(request):
            return refused
        engine = self.hub.engine
        text = engine.statistics.text(len(engine), engine.lag_s())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def transcribe(self, request: Request) -> Response:
        """Transcribes the audio file in the body of a request."""
        if refused := self._refused(request):
            return refused
        try:
            with tempfile.NamedTemporaryFile() as file:
                await self._upload(request, file)
                async with self._files:
                    audio = await asyncio.to_thread(self._decoded, Path(file.name))
                    result = await self._transcribed(request, audio)
        except ClientDisconnect:
            return _error(400, "the connection was closed")
        except UserError as error:
            status = 503 if isinstance(error, BusyError) else 413 if isinstance(error, TooLargeError) else 400
            return _error(status, str(error))
        failed = result["type"] == "error"
        return _error(500, result["message"]) if failed else JSONResponse({k: result[k] for k in ("text", "seconds")})

    async def stream(self, socket: WebSocket) -> None:
        """Transcribes a live stream."""
        if refusal := self.access.refusal(socket.headers):
            await socket.close(1008, refusal)
            return
        await socket.accept()
        number = None
        try:
            hello = await self._hello(socket)
            number, outbox = self.hub.open()
            await socket.send_json(self.ready)
            await self._converse(socket, number, hello, outbox)
        except UserError as error:
            report("refused", stream=number)
            with suppress(asyncio.TimeoutError, WebSocketDisconnect, RuntimeError):
                await asyncio.wait_for(self._send(socket, protocol.error(str(error))), self.limits.send_s)
        except (WebSocketDisconnect, asyncio.TimeoutError):
            report("vanished", stream=number)
        finally:
            if number is not None:
                self.hub.close(number)

    async def _hello(self, socket: WebSocket) -> Hello:
        wait = self.limits.hello_s
        message = await _received(socket, wait, f"no first message came for {wait:g} s")
        hello = Hello.parse(message.get("text"), self.rate)
        if not (self.access.accepts(hello.token) or self.access.accepts_header(socket.headers)):
            raise UserError("the token is missing or wrong")
        return hello

    async def _converse(self, socket: WebSocket, number: int, hello: Hello, outbox: Outbox) -> None:
        """Reads and writes at the same time until the last message was sent."""
        reader = asyncio.create_task(self._read(socket, number, hello))
        writer = asyncio.create_task(self._write(socket, outbox))
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                reader.result()
            await asyncio.wait_for(writer, self.limits.idle_s)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, socket: WebSocket, number: int, hello: Hello) -> None:
        limits, clock = self.limits, asyncio.get_running_loop().time
        last = clock()
        while True:
            wait = max(0.0, last + limits.idle_s - clock())
            message = await _received(socket, wait, f"no audio came for {limits.idle_s:g} s")
            data = message.get("bytes")
            if data is None:
                protocol.require_end(message.get("text"))
                self.hub.end(number)
                return
            if len(data) > limits.message_bytes:
                raise UserError(f"a message of {len(data)} bytes is too large: the limit is {limits.message_bytes}")
            if data:
                await self.hub.push(number, hello.samples(data))
                last = clock()

    async def _write(self, socket: WebSocket, outbox: Outbox) -> None:
        while True:
            message = await outbox.next()
            await self._send(socket, message)
            if message["type"] in LAST:
                return

    async def _send(self, socket: WebSocket, message: dict[str, Any]) -> None:
        await socket.send_json(message)
        if message["type"] in LAST:
            await socket.close(1000 if message["type"] == "final" else 1008)

    async def _upload(self, request: Request, file: IO[bytes]) -> None:
        size, pieces = 0, request.stream().__aiter__()
        while True:
            try:
                piece = await asyncio.wait_for(pieces.__anext__(), self.limits.idle_s)
            except StopAsyncIteration:
                break
            except asyncio.TimeoutError:
                raise UserError(f"no data came for {self.limits.idle_s:g} s") from None
            size += len(piece)
            if size > self.limits.file_bytes:
                raise TooLargeError(f"the file is too large: the limit is {self.limits.file_bytes} bytes")
            file.write(piece)
        file.flush()

    def _decoded(self, path: Path) -> torch.Tensor:
        """Reads an uploaded file, whose duration is checked first."""
        try:
            info = soundfile.info(str(path))
            if info.frames > self.limits.file_s * info.samplerate:
                raise TooLargeError(f"the file is too long: the limit is {self.limits.file_s:g} s")
            return load_audio(path, self.rate)
        except TooLargeError:
            raise
        except (soundfile.LibsndfileError, UserError) as error:
            text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
            raise UserError(f"the file cannot be used: {text.replace(str(path), 'it')}") from None

    async def _transcribed(self, request: Request, audio: torch.Tensor) -> dict[str, Any]:
        number, outbox = self.hub.open()
        try:
            for piece in audio.split(_PIECE):
                if await request.is_disconnected():
                    raise ClientDisconnect
                await self.hub.push(number, piece)
            self.hub.end(number)
            while (message := await outbox.next())["type"] not in LAST:
                pass
            return message
        finally:
            self.hub.close(number)

    def _refused(self, request: Request) -> Response | None:
        if refusal := self.access.refusal(request.headers):
            return _error(403, refusal)
        if not self.access.accepts_header(request.headers):
            return _error(401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN")
        return None


async def _received(socket: WebSocket, seconds: float, late: str) -> dict[str, Any]:
    """Returns the next message of a client.

    Raises:
        UserError: with the text `late`, if none comes in time.
        WebSocketDisconnect: if the client is gone.
    """
    try:
        message = await asyncio.wait_for(socket.receive(), seconds)
    except asyncio.TimeoutError:
        raise UserError(late) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    return dict(message)


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def _page(name: str, kind: str) -> Any:
    content = (files("streamnest.serving") / "page" / name).read_bytes()

    async def respond(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return respond
