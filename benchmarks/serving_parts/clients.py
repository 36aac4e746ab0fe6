"""Clients of a server: in real time, faster, slow to read, and vanishing ones."""

from __future__ import annotations

import asyncio
import json
import random
import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

Audio = NDArray[np.int16]
# Results in the first seconds of a stream are not measured: all streams begin at the same time.
_SKIPPED_S = 1.0


class ServerError(Exception):
    """The server has sent an error."""


@asynccontextmanager
async def opened(address: str, rate: int, **hello: Any) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """Opens a stream; yields its connection and the first message of the server."""
    async with connect(f"ws://{address}/stream", proxy=None, open_timeout=60, compression=None) as socket:
        await socket.send(json.dumps({"rate": rate, "format": "int16", **hello}))
        yield socket, await next_message(socket)


async def next_message(socket: ClientConnection) -> dict[str, Any]:
    """Returns the next message of the server.

    Raises:
        ServerError: if it is an error.
    """
    message: dict[str, Any] = json.loads(await socket.recv())
    if message["type"] == "error":
        raise ServerError(message["message"])
    return message


async def final_of(socket: ClientConnection) -> str:
    """Reads up to the final text."""
    while (message := await next_message(socket))["type"] != "final":
        pass
    return str(message["text"])


def needed_s(frames: int, ready: dict[str, Any]) -> float:
    """Returns the seconds of audio after which the first `frames` frames of a stream can be computed."""
    return float(frames * ready["frame_ms"] - ready["chunk_ms"] + ready["latency_worst_ms"]) / 1000


async def live(address: str, audio: Audio, rate: int, piece: int) -> list[float]:
    """Sends audio in real time; returns the delay of each result in seconds.

    The delay begins when the piece with the last sample that a frame needs was recorded, even if it is sent later.

    Args:
        address: address of the server.
        audio: samples `(n,)`.
        rate: sampling rate.
        piece: samples of a message.
    """
    ends = [min(at + piece, len(audio)) for at in range(0, len(audio), piece)]
    async with opened(address, rate) as (socket, ready):
        await asyncio.sleep(random.random() * ready["chunk_ms"] / 1000)
        start, delays = time.monotonic(), list[float]()

        async def send() -> None:
            for first, end in zip([0, *ends], ends, strict=False):
                await asyncio.sleep(max(0.0, start + end / rate - time.monotonic()))
                await socket.send(audio[first:end].tobytes())
            await socket.send('{"end": true}')

        sender = asyncio.create_task(send())
        while (message := await next_message(socket))["type"] != "final":
            needed = needed_s(message.get("frames", 0), ready)
            if message["type"] == "partial" and needed > _SKIPPED_S:
                recorded = ends[min(bisect_left(ends, needed * rate), len(ends) - 1)]
                delays.append(time.monotonic() - start - recorded / rate)
        await sender
    return delays


async def real_time(address: str, audio: Audio, rate: int) -> str:
    """Sends audio in real time; returns the final text."""
    async with opened(address, rate) as (socket, _):

        async def send() -> None:
            for at in range(0, len(audio), rate // 10):
                await socket.send(audio[at : at + rate // 10].tobytes())
                await asyncio.sleep(0.1)
            await socket.send('{"end": true}')

        sender = asyncio.create_task(send())
        text = await final_of(socket)
        await sender
    return text


async def fast(address: str, audio: Audio, rate: int) -> str:
    """Sends audio in pieces of random sizes as fast as the server reads; returns the final text."""
    async with opened(address, rate) as (socket, _):

        async def send() -> None:
            at = 0
            while at < len(audio):
                size = random.randint(1, 2 * rate)
                await socket.send(audio[at : at + size].tobytes())
                at += size
            await socket.send('{"end": true}')

        sender = asyncio.create_task(send())
        text = await final_of(socket)
        await sender
    return text


async def slow_reader(address: str, audio: Audio, rate: int) -> str:
    """Reads nothing until all audio is sent and a while after; returns the final text."""
    async with opened(address, rate) as (socket, _):
        for at in range(0, len(audio), rate // 5):
            await socket.send(audio[at : at + rate // 5].tobytes())
            await asyncio.sleep(0.02)
        await socket.send('{"end": true}')
        await asyncio.sleep(2)
        return await final_of(socket)


async def vanishing(address: str, audio: Audio, rate: int) -> None:
    """Ends the connection somewhere, without a message."""
    async with opened(address, rate) as (socket, _):
        await socket.send(audio[: random.randint(1, len(audio))].tobytes())
        await asyncio.sleep(random.random())
        socket.transport.abort()


async def resuming(address: str, audio: Audio, rate: int) -> str:
    """Loses the connection a few times and continues the stream each time; returns the final text."""
    at, hello = 0, dict[str, Any]()
    for last in (False, False, True):
        async with opened(address, rate, **hello) as (socket, ready):
            at = ready.get("samples", 0)
            hello = {"resume": ready["resume"]}
            end = len(audio) if last else random.randint(at, len(audio))
            for first in range(at, end, rate):
                await socket.send(audio[first : min(first + rate, end)].tobytes())
            if last:
                await socket.send('{"end": true}')
                return await final_of(socket)
            await asyncio.sleep(random.random())
            socket.transport.abort()
    raise AssertionError
