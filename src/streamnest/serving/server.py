"""The process of a server: socket, signals and a graceful end."""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType
from typing import Any

import uvicorn

from streamnest.errors import UserError
from streamnest.serving.access import Access
from streamnest.serving.app import Service
from streamnest.serving.hub import Hub

# Connections besides those of streams: the page, metrics, files, and clients before their first message.
_MORE_CONNECTIONS = 64


def bind(host: str, port: int) -> socket.socket:
    """Opens the socket of a server; port 0 chooses a free one.

    Raises:
        UserError: if the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} cannot be used: {error}") from None


class Server(uvicorn.Server):
    """Serves streams until SIGTERM or Ctrl-C, after which open streams get their final text; a second signal stops it.

    Args:
        hub: hub of the engine.
        access: rules of access.
    """

    def __init__(self, hub: Hub, access: Access) -> None:
        limits = hub.engine.limits
        config = uvicorn.Config(
            Service(hub, access).app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            # Larger messages than the limit are read up to here, so that the client gets an error with the reason.
            ws_max_size=4 * limits.message_bytes,
            ws_per_message_deflate=False,
            limit_concurrency=limits.streams + _MORE_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.hub = hub
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drained: Any = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs until the server has stopped."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop at the first signal, and stops at the second."""
        if self._loop is None or self._drained is not None:
            self.should_exit = self.force_exit = True
            # uvicorn would log the task that this cancels as an error with its trace.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            return
        self._drained = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)

    async def _drain(self) -> None:
        await self.hub.drain()
        self.should_exit = True
