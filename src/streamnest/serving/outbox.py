"""Messages that wait for a client."""

from __future__ import annotations

import asyncio
from typing import Any

LAST = ("final", "error")
# Fields of partial results that a client which resumes its stream gets again.
_REPEATED = ("text", "turns")


class Outbox:
    """Messages that wait for a client. Partial results are merged, so that a slow reader costs little memory.

    Attributes:
        so_far: text and turns in all partial results that were taken.
    """

    def __init__(self) -> None:
        self.so_far: dict[str, Any] = {}
        self._waiting: dict[str, dict[str, Any]] = {}
        self._filled = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Adds a message; it replaces a waiting one of the same type."""
        before = self._waiting.get(message["type"])
        if before and message["type"] == "partial":
            message = _merged(before, message)
        self._waiting[message["type"]] = message
        self._filled.set()

    async def next(self) -> dict[str, Any]:
        """Waits for the next message; the final result or an error comes last, and stays for a client that resumes."""
        await self._filled.wait()
        kind = min(self._waiting, key=lambda kind: kind in LAST)
        message = self._waiting[kind]
        if kind not in LAST:
            del self._waiting[kind]
        if kind == "partial":
            for name in _REPEATED:
                if name in message:
                    self.so_far[name] = self.so_far[name] + message[name] if name in self.so_far else message[name]
        if not self._waiting:
            self._filled.clear()
        return message


def _merged(before: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Joins two partial results: texts and rows are appended, and rows keep the number of the first one."""
    joined = {name: before[name] + value for name, value in message.items() if isinstance(value, str | list)}
    first = {"first_frame": before["first_frame"]} if "first_frame" in before else {}
    return {**message, **joined, **first, "type": message["type"]}
