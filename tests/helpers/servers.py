"""Misbehaving servers on this machine."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


@contextmanager
def serving(handler: Any) -> Iterator[ThreadingHTTPServer]:
    """Serves in a thread until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    """Returns a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FakeWandb(BaseHTTPRequestHandler):
    """The part of a W&B server that starting a run needs; `mode` is "ok", "deaf" or the status of every response."""

    protocol_version = "HTTP/1.1"
    mode: Any = "ok"
    released: Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.mode == "deaf":
            self.released.wait(60)
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        answer = json.dumps({"data": self._data(body)}).encode()
        with suppress(OSError):
            self.send_response(self.mode if isinstance(self.mode, int) else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    @staticmethod
    def _data(body: bytes) -> dict[str, Any]:
        if b"upsertBucket" not in body:
            return {}
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        bucket = {"id": "x", "name": json.loads(body)["variables"]["name"], "config": "{}", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake_wandb(mode: Any = "ok") -> Iterator[tuple[str, type[FakeWandb]]]:
    """Yields the address of a `FakeWandb`, and its class, on which `mode` may be changed."""

    class Handler(FakeWandb):
        pass

    Handler.mode, Handler.released = mode, Event()
    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", Handler
        Handler.released.set()
