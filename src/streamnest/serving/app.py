"""HTTP and WebSocket endpoints of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from streamnest.errors import UserError
from streamnest.serving import protocol
from streamnest.serving.access import Access
from streamnest.serving.hub import Hub
from streamnest.serving.live import LiveStreams
from streamnest.serving.stream import BusyError
from streamnest.serving.uploads import TooLargeError, Uploads

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


class Service:
    """Endpoints of a server; `app` has them all.

    Args:
        hub: hub of the engine.
        access: rules of access.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        self.hub, self.access, self.uploads = hub, access, Uploads(hub)
        self._stepping: asyncio.Task[None] | None = None
        self.app = Starlette(
            routes=[
                WebSocketRoute("/stream", LiveStreams(hub, access).serve),
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
            result = await self.uploads.transcribe(request)
        except ClientDisconnect:
            return _error(400, "the connection was closed")
        except UserError as error:
            status = 503 if isinstance(error, BusyError) else 413 if isinstance(error, TooLargeError) else 400
            return _error(status, str(error))
        return _error(500, result["message"]) if "message" in result else JSONResponse(result)

    def _refused(self, request: Request) -> Response | None:
        if refusal := self.access.refusal(request.headers):
            return _error(403, refusal)
        if not self.access.accepts_header(request.headers):
            return _error(401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN")
        return None


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def _page(name: str, kind: str) -> Any:
    content = (files("streamnest.serving") / "page" / name).read_bytes()

    async def respond(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return respond
