"""Streams whose connection is lost continue on another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from streamnest.data.resampling import resample
from streamnest.downstream.asr.recognition import TextTask
from streamnest.errors import UserError
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits
from streamnest.serving.stream import BusyError

for package in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(package)
from live_server import Running, int16, next_message, received, running  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402

Audio = Callable[..., torch.Tensor]
TextOf = Callable[[torch.Tensor], str]


@pytest.fixture(scope="module")
def server(recognizer: TextTask) -> Iterator[Running]:
    with running(recognizer, Limits(streams=2)) as one:
        yield one


def lost(socket: Any) -> None:
    """Ends a connection without a message."""
    socket.socket.close()


def resumed(server: Running, key: str, kind: str = "int16") -> tuple[Any, dict[str, Any]]:
    socket = server.open(kind, resume=key)
    return socket, next_message(socket)


def test_a_resumed_stream_gets_the_text_of_an_uninterrupted_one(server: Running, audio: Audio, text_of: TextOf) -> None:
    wave, socket = audio(24000), server.open()
    key = next_message(socket)["resume"]
    assert len(key) >= 22
    socket.send(int16(wave[:7001]))
    lost(socket)
    server.wait_for_metrics("kept_streams 1")
    socket, ready = resumed(server, key, "float32")
    at, before = ready["samples"], ready["text"]
    assert at in (0, 7001) and ready["resume"] == key
    socket.send(wave[at:16000].numpy().tobytes())
    socket, ready = resumed(server, key)  # the server has not noticed that the connection is of no use
    at = ready["samples"]
    assert at in (7001, 16000) and ready["text"].startswith(before)
    socket.send(int16(wave[at:]))
    socket.send('{"end": true}')
    *_, final = messages = received(socket)
    assert final["text"] == text_of(wave) and final["seconds"] == 1.5
    partial = "".join(message["text"] for message in messages if message["type"] == "partial")
    assert final["text"].startswith(ready["text"] + partial)
    server.wait_for_metrics("streams_resumed_total 2")
    server.wait_for_metrics("kept_streams 0")
    assert "not kept any more" in received(server.open(resume=key))[-1]["message"]


def test_audio_of_another_rate_is_resampled_also_after_resuming(server: Running, audio: Audio, text_of: TextOf) -> None:
    wave = resample(audio(16000), 16000, 48000)
    socket = server.open("float32", rate=48000)
    key = next_message(socket)["resume"]
    socket.send(wave[:20_001].numpy().tobytes())
    lost(socket)
    server.wait_for_metrics("kept_streams 1")
    assert "a rate of 48000, not 16000" in received(server.open(resume=key))[-1]["message"]
    socket = server.open("float32", rate=48000, resume=key)
    at = next_message(socket)["samples"]
    assert at in (0, 20_001)
    for piece in wave[at:].split(960):
        socket.send(piece.numpy().tobytes())
    socket.send('{"end": true}')
    final = received(socket)[-1]
    assert final["text"] == text_of(resample(wave, 48000, 16000)) and final["seconds"] == 1.0


def test_the_replaced_connection_gets_an_error(server: Running) -> None:
    old = server.open()
    key = next_message(old)["resume"]
    new, _ = resumed(server, key)
    assert "resumed on another connection" in received(old)[-1]["message"] and old.close_code == 1008
    new.send('{"end": true}')
    assert received(new)[-1]["text"] == ""


def test_a_lost_final_result_is_sent_again(server: Running, audio: Audio, text_of: TextOf) -> None:
    socket = server.open()
    key = next_message(socket)["resume"]
    socket.send(int16(audio(16000)))
    socket.send('{"end": true}')
    lost(socket)
    server.wait_for_metrics("kept_streams 1")
    socket, ready = resumed(server, key)
    with suppress(ConnectionClosed):  # the server may have received everything, and sends the result at once
        socket.send(int16(audio(16000)[ready["samples"] :]))
        socket.send('{"end": true}')
    final = received(socket)[-1]
    assert final["text"] == text_of(audio(16000))


def test_kept_streams_are_bounded_and_need_room_to_resume(server: Running, audio: Audio) -> None:
    keys = []
    for _ in range(3):
        socket = server.open()
        keys.append(next_message(socket)["resume"])
        lost(socket)
        server.wait_for_metrics("streams 0")
    server.wait_for_metrics("kept_streams 2")
    assert "not kept" in received(server.open(resume=keys[0]))[-1]["message"]
    others = [server.open() for _ in range(2)]
    for other in others:
        next_message(other)
    assert "busy with 2 streams" in received(server.open(resume=keys[1]))[-1]["message"]
    for other in others:
        other.send(b"\x00")  # not a whole sample: streams with errors are not kept
        assert received(other)[-1]["type"] == "error"
    server.wait_for_metrics("streams 0")
    for key in keys[1:]:
        socket, ready = resumed(server, key)
        assert ready["type"] == "ready"
        socket.send('{"end": true}')
        received(socket)
    server.wait_for_metrics("kept_streams 0")


def test_idle_streams_are_kept_for_a_limited_time(recognizer: TextTask) -> None:
    with running(recognizer, Limits(idle_s=0.2)) as server:
        socket = server.open()
        key = next_message(socket)["resume"]
        assert "no audio came" in received(socket)[-1]["message"]
        assert resumed(server, key)[1]["samples"] == 0
    with running(recognizer, Limits(keep_s=0.2)) as server:
        socket = server.open()
        key = next_message(socket)["resume"]
        lost(socket)
        server.wait_for_metrics("streams 0", "kept_streams 0")
        assert "not kept" in received(server.open(resume=key))[-1]["message"]
    with running(recognizer, Limits(keep_s=0)) as server:
        socket = server.open()
        assert next_message(socket)["resume"] is None
        lost(socket)
        server.wait_for_metrics("streams 0", "kept_streams 0")


def test_a_resumed_stream_does_not_expire(recognizer: TextTask) -> None:
    async def resume() -> None:
        hub = Hub(Engine(recognizer, Limits(keep_s=0.05)))
        stream = hub.open()
        hub.leave(stream, "vanished")
        assert await hub.resume(stream.key) is stream
        await asyncio.sleep(0.2)
        hub.leave(stream, "vanished")
        assert hub.kept == [stream]

    asyncio.run(resume())


def test_waiting_for_a_metric_that_never_comes_fails(server: Running) -> None:
    with pytest.raises(AssertionError, match="no kept_streams 99 in"):
        server.wait_for_metrics("kept_streams 99", seconds=0.01)


def test_a_stopping_server_keeps_and_opens_no_streams(recognizer: TextTask) -> None:
    async def stop() -> None:
        hub = Hub(Engine(recognizer))
        streams = [hub.open(), hub.open()]
        hub.leave(streams[0], "vanished")
        assert hub.kept == streams[:1]
        stopping = asyncio.create_task(hub.drain())
        await asyncio.sleep(0)
        assert not hub.kept
        with pytest.raises(BusyError, match="stopping"):
            hub.open()
        with pytest.raises(UserError, match="not kept"):
            await hub.resume(streams[0].key)
        await hub.push(streams[1], [0.0])  # a client may still send, and gets its result
        hub.leave(streams[1], "vanished")
        await stopping
        assert not hub.kept

    asyncio.run(stop())
