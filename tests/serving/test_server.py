"""A running server: the WebSocket protocol, HTTP endpoints, access and the end of the process."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from socket import create_connection
from typing import Any

import pytest
import soundfile
import torch

from streamnest.downstream.asr.recognition import TextTask
from streamnest.serving.access import Access
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits

for package in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(package)
import live_server  # noqa: E402
from live_server import WAIT, Running, int16, received  # noqa: E402
from websockets.exceptions import InvalidStatus  # noqa: E402

from streamnest.serving.live import LiveStreams  # noqa: E402

Audio = Callable[..., torch.Tensor]
TextOf = Callable[[torch.Tensor], str]
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def start(recognizer: TextTask) -> Callable[..., AbstractContextManager[Running]]:
    return partial(live_server.running, recognizer)


@pytest.fixture(scope="module")
def running(start: Callable[..., AbstractContextManager[Running]]) -> Iterator[Running]:
    with start(Limits(message_bytes=20000)) as one:
        yield one


def test_two_interleaved_streams_get_the_texts_of_recognition(running: Running, audio: Audio, text_of: TextOf) -> None:
    one, two = audio(16001, 1), audio(9000, 2)
    first, second = running.open(), running.open("float32")
    for at in range(0, 16001, 777):
        first.send(int16(one[at : at + 777]))
        if at < 9000:
            second.send(two[at : at + 777].numpy().tobytes())
    for socket, wave in ((first, one), (second, two)):
        socket.send('{"end": true}')
        ready, *partial, final = received(socket)
        assert ready["type"] == "ready" and ready["lookahead_ms"] == 42.4375 and ready["latency_worst_ms"] == 82.5
        assert final["type"] == "final" and final["text"] == text_of(wave) and len(final["text"]) > 3
        assert final["seconds"] == pytest.approx(len(wave) / 16000, abs=1e-4)
        assert final["text"].startswith("".join(m["text"] for m in partial if m["type"] == "partial"))
        assert socket.close_code == 1000


def test_wrong_messages_get_an_error_and_others_their_text(running: Running, audio: Audio, text_of: TextOf) -> None:
    good, wave = running.open(), audio(8000)
    good.send(int16(wave[:4000]))
    hello = {"rate": 16000, "format": "float32"}
    cases: list[tuple[Any, Any, str]] = [
        (hello, torch.full((99,), float("nan")).numpy().tobytes(), "not finite"),
        (hello, b"\x00" * 7, "not a whole number"),
        (hello, b"\x00" * 20004, "too large"),
        (hello, "[]", "JSON object"),
        (hello, '{"end": 1}', '"end": true'),
        ({**hello, "rate": 16001}, None, "rate must be 16000"),
        ({**hello, "rate": True}, None, "rate must be 16000"),
        ({"rate": 16000, "format": ["int16"]}, None, "format must be int16 or float32"),
        ({**hello, "context": "causal"}, None, "context is not a streaming context of this model"),
        ({**hello, "context": ["causal"]}, None, "context must be a text"),
        ({**hello, "resume": "no such stream"}, None, "not kept any more"),
        ("[" * 3000, None, "JSON object"),
        (json.dumps({**hello, "token": "x" * 4096}), None, "at most 4096 characters"),
        (b"\x00\x00", None, "JSON object"),
    ]
    for first, then, reason in cases:
        bad = running.connect()
        bad.send(json.dumps(first) if isinstance(first, dict) else first)
        if then is not None:
            bad.send(then)
        last = received(bad)[-1]
        assert last["type"] == "error" and reason in last["message"], (first, last)
        assert bad.close_code == 1008
    vanished = running.open()
    vanished.send(int16(wave))
    vanished.socket.close()
    good.send(int16(wave[4000:]))
    good.send('{"end": true}')
    assert received(good)[-1]["text"] == text_of(wave)


def test_files_health_metrics_and_page_are_served(running: Running, audio: Audio, text_of: TextOf) -> None:
    file = io.BytesIO()
    soundfile.write(file, audio(12000).numpy(), 16000, format="WAV", subtype="FLOAT")
    status, text = running.get("/transcribe", file.getvalue())
    assert (status, json.loads(text)) == (200, {"text": text_of(audio(12000)), "seconds": 0.75})
    status, text = running.get("/transcribe", b"no audio")
    assert status == 400 and "the file cannot be used" in text and "/tmp" not in text
    assert running.get("/transcribe?context=causal", file.getvalue())[0] == 400
    assert running.get("/healthz") == (200, '{"status":"ok"}')
    model = json.loads(running.get("/model")[1])
    assert model["kind"] == "text" and model["contexts"] == {} and model["chunk_ms"] == 80
    status, text = running.get("/metrics")
    assert status == 200 and "streamnest_streams " in text and "streamnest_step_seconds_count" in text
    for path in ("/", "/page.js", "/recorder.js", "/page.css"):
        assert running.get(path)[0] == 200
    assert running.get("/../pyproject.toml")[0] == 404


def test_a_token_is_required_by_every_endpoint(start: Callable[..., AbstractContextManager[Running]]) -> None:
    with start(access=Access(token=TOKEN)) as running:
        for hello in ({}, {"token": "x"}, {"token": 7}):
            assert "token is missing or wrong" in received(running.open(**hello))[-1]["message"]
        with running.open(token=TOKEN) as socket:
            assert json.loads(socket.recv(WAIT))["type"] == "ready"
        for request in (("/metrics",), ("/model",), ("/transcribe", b"x")):
            assert running.get(*request)[0] == 401
        assert running.get("/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert running.get("/healthz")[0] == 200


def test_pages_of_other_origins_are_refused(running: Running) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        running.connect(origin="https://elsewhere.example")
    with running.connect(origin=f"http://{running.address}"):
        pass
    assert running.get("/transcribe", b"x", Origin="https://elsewhere.example")[0] == 403


@pytest.mark.parametrize(
    ("host", "headers", "allowed"),
    [
        ("127.0.0.1", {"host": "localhost:1"}, True),
        ("127.0.0.1", {"host": "[::1]:1", "origin": "http://[::1]:1"}, True),
        ("127.0.0.1", {"host": "rebound.example", "origin": "http://rebound.example"}, False),
        ("127.0.0.1", {"host": "localhost:1", "origin": "http://localhost:2"}, False),
        ("127.0.0.1", {"host": "localhost:1", "origin": "null"}, False),
        ("127.0.0.1", {"host": "[", "origin": "null"}, False),
        ("0.0.0.0", {"host": "asr.example", "origin": "https://asr.example"}, True),
        ("0.0.0.0", {"host": "asr.example", "origin": "https://allowed.example"}, True),
        ("0.0.0.0", {"host": "asr.example", "origin": "https://asr.example.other"}, False),
    ],
)
def test_access_by_host_and_origin(host: str, headers: dict[str, str], allowed: bool) -> None:
    assert (Access(host, None, ("https://allowed.example",)).refusal(headers) is None) is allowed


def test_limits_of_time_streams_and_files(start: Callable[..., AbstractContextManager[Running]], audio: Audio) -> None:
    limits = Limits(streams=1, hello_s=0.2, idle_s=0.5, file_bytes=2000, file_s=0.01)
    file = io.BytesIO()
    soundfile.write(file, audio(500).numpy(), 16000, format="WAV", subtype="PCM_16")
    with start(limits) as running:
        assert "no first message" in received(running.connect())[-1]["message"]
        first = running.open()
        assert json.loads(first.recv(WAIT))["type"] == "ready"
        assert "busy with 1 streams" in received(running.open())[-1]["message"]
        assert "no audio came for 0.5 s" in received(first)[-1]["message"]
        host, port = running.address.split(":")
        with create_connection((host, int(port)), WAIT) as upload:
            head = f"POST /transcribe HTTP/1.1\r\nHost: {running.address}\r\nContent-Length: 9\r\n\r\nx"
            upload.sendall(head.encode())  # and nothing more
            assert b"400 Bad Request" in upload.recv(4096)
        assert running.get("/transcribe", b"x" * 2001)[0] == 413
        status, text = running.get("/transcribe", file.getvalue())
        assert status == 413 and "too long" in text


def test_sigterm_ends_streams_with_their_final_text(
    start: Callable[..., AbstractContextManager[Running]], audio: Audio, text_of: TextOf
) -> None:
    with start() as running:
        socket = running.open()
        assert json.loads(socket.recv(WAIT))["type"] == "ready"
        socket.send(int16(audio(8000)))
        running.wait_for_metrics("audio_seconds_total 0.5")
        running.server.handle_exit(signal.SIGTERM, None)
        assert received(socket)[-1]["text"] == text_of(audio(8000))
        running.thread.join(WAIT)
        assert not running.thread.is_alive()


def test_a_fast_client_is_throttled_and_loses_nothing(
    start: Callable[..., AbstractContextManager[Running]], audio: Audio, text_of: TextOf
) -> None:
    wave = audio(40000)
    with start(Limits(queue_s=0.2, step_s=0.1)) as running:
        socket = running.open()
        for at in range(0, 40000, 4000):
            socket.send(int16(wave[at : at + 4000]))
        socket.send('{"end": true}')
        *_, final = received(socket)
    assert final.get("text") == text_of(wave) and final["seconds"] == 2.5


def test_a_client_that_reads_nothing_loses_its_connection(recognizer: TextTask) -> None:
    class Stalled:
        async def send_json(self, _: Any) -> None:
            await asyncio.sleep(WAIT)

    async def write() -> None:
        service = LiveStreams(Hub(Engine(recognizer, Limits(idle_s=0.05))), Access())
        stream = service.hub.open()
        stream.outbox.put({"type": "partial", "text": "a"})
        await service._write(Stalled(), stream)  # type: ignore[arg-type]

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(write())
