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
from streamnest.serving.events import report
from streamnest.serving.hub import ClientStream, Hub, Outcome
from streamnest.serving.outbox import LAST
from streamnest.serving.protocol import Hello
from streamnest.serving.stream import BusyError
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


class LateError(UserError):
    """A client sent nothing for too long."""


class ReplacedError(UserError):
    """Another connection has resumed the stream."""


class Service:
    """Endpoints of a server; `app` has them all.

    Args:
        hub: hub of the engine.
        access: rules of access.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        self.hub, self.access, self.limits = hub, access, hub.engine.limits
        self.rate = hub.engine.sample_rate
        self._stepping: asyncio.Task[None] | None = None
        self._files = asyncio.Semaphore(_FILES_AT_ONCE)
        self.app = Starlette(
            routes=[
                WebSocketRoute("/stream", self.stream),
                Route("/transcribe", self.transcribe, methods=["POST"]),
                Route("/model", self.model),
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
        lag_s = max(engine.lags_s().values(), default=0.0)
        text = engine.statistics.text(len(engine), len(self.hub.kept), lag_s, engine.load)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """Returns the kind of the streams, and latency figures of each context."""
        return self._refused(request) or JSONResponse(protocol.described(self.hub.engine.served))

    async def transcribe(self, request: Request) -> Response:
        """Returns the result for the audio file in the body of a request."""
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
        return _error(500, result["message"]) if "message" in result else JSONResponse(result)

    async def stream(self, socket: WebSocket) -> None:
        """Serves a live stream."""
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
        """Returns the result of a file without fields of live streams, or its error."""
        stream = self.hub.open(request.query_params.get("context"))
        try:
            for piece in audio.split(_PIECE):
                if await request.is_disconnected():
                    raise ClientDisconnect
                await self.hub.push(stream, piece)
            self.hub.end(stream)
            codes: list[list[int]] = []
            while True:
                message = await stream.outbox.next()
                codes += message.get("codes", [])
                if message["type"] in LAST:
                    break
        finally:
            self.hub.discard(stream)
        message["codes"] = codes
        names = ["message"] if message["type"] == "error" else [self.hub.engine.served.kind, "seconds"]
        return {name: message[name] for name in names}

    def _refused(self, request: Request) -> Response | None:
        if refusal := self.access.refusal(request.headers):
            return _error(403, refusal)
        if not self.access.accepts_header(request.headers):
            return _error(401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN")
        return None


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


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def _page(name: str, kind: str) -> Any:
    content = (files("streamnest.serving") / "page" / name).read_bytes()

    async def respond(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return respond
