"""A running server in a thread, and its clients."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from processes import eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from streamnest.serving.access import Access
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits
from streamnest.serving.server import Server, bind

WAIT = 60


class Running:
    """Server in a thread.

    Attributes:
        server: the server.
        address: host and port.
    """

    def __init__(self, model: Any, limits: Limits, access: Access) -> None:
        socket = bind("127.0.0.1", 0)
        self.server, self.address = Server(Hub(Engine(model, limits)), access), f"127.0.0.1:{socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, args=([socket],))
        self.thread.start()

    def connect(self, **options: Any) -> ClientConnection:
        return connect(f"ws://{self.address}/stream", proxy=None, open_timeout=WAIT, **options)

    def open(self, kind: str = "int16", **hello: Any) -> ClientConnection:
        socket = self.connect()
        socket.send(json.dumps({"rate": 16000, "format": kind, **hello}))
        return socket

    def get(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_for_metrics(self, *lines: str, seconds: float = WAIT) -> None:
        """Waits until the metrics have some lines at once.

        The lines must stay true once they are: a busy machine may miss a value that lasts for a moment.
        """

        def found() -> bool:
            metrics = self.get("/metrics")[1]
            return all(f"streamnest_{line}\n" in metrics for line in lines)

        assert eventually(found, seconds, pause=0.01), f"no {', '.join(lines)} in:\n{self.get('/metrics')[1]}"

    def stop(self) -> None:
        for _ in range(2):
            self.server.handle_exit(signal.SIGTERM, None)
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), "the server does not stop"


@contextmanager
def running(model: Any, limits: Limits | None = None, access: Access | None = None) -> Iterator[Running]:
    """Runs a server until the end of the block."""
    one = Running(model, limits or Limits(), access or Access())
    try:
        yield one
    finally:
        one.stop()


def next_message(socket: ClientConnection) -> dict[str, Any]:
    """Returns the next message."""
    message: dict[str, Any] = json.loads(socket.recv(WAIT))
    return message


def received(socket: ClientConnection) -> list[dict[str, Any]]:
    """Returns the messages up to the last one, after which the server closes the connection."""
    messages = []
    try:
        while True:
            messages.append(next_message(socket))
    except ConnectionClosed:
        return messages


def int16(samples: torch.Tensor) -> bytes:
    """Returns samples as a binary message."""
    return (samples * 32768).to(torch.int16).numpy().tobytes()
