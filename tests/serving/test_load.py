"""Load and backpressure: admission by measured step time, warnings, and clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from streamnest.downstream.asr.recognition import TextTask
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits
from streamnest.serving.load import Load
from streamnest.serving.outbox import Outbox
from streamnest.serving.stream import BusyError

Audio = Callable[..., torch.Tensor]
CHUNK = 1280


@pytest.fixture
def slow(recognizer: TextTask, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, list[float]]:
    """Returns an engine whose steps take 50 ms each, for a chunk of 80 ms, and its clock."""
    now = [0.0]
    engine = Engine(recognizer, Limits(load=0.6), clock=lambda: now[0])
    session: Any = engine.served.sessions[None]
    compute = session._step

    def step(*args: Any) -> None:
        now[0] += 0.05
        compute(*args)

    monkeypatch.setattr(session, "_step", step)
    assert session.chunk_samples == CHUNK
    return engine, now


def test_streams_are_refused_while_steps_leave_no_time(slow: tuple[Engine, list[float]], audio: Audio) -> None:
    engine, now = slow
    first = engine.open()
    engine.push(first, audio(2 * CHUNK))
    engine.step()
    assert engine.load == pytest.approx(0.05 / 0.08)
    with pytest.raises(BusyError, match="no time for another stream"):
        engine.open()
    assert "streamnest_streams_refused_total 1" in engine.statistics.text(1, 0, 0.0, 0.0)
    engine.keep(first)
    engine.resume(first)  # a stream that was admitted before
    now[0] += 4.0
    assert engine.load == 0
    engine.open()


def test_backlogs_do_not_count_as_live_load(
    slow: tuple[Engine, list[float]], audio: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = slow
    added = list[tuple[float, ...]]()
    engine.push(engine.open(), audio(5 * CHUNK))
    engine.step()
    assert 0 < engine.load < 0.4
    monkeypatch.setattr(engine._load, "add", lambda *step: added.append(step))
    engine.push(engine.open(), audio(10))
    engine.step()  # completes no chunk
    assert not added
    for number in range(2):
        engine.push(number, audio(5 * CHUNK))
    engine.step()
    ((_, chunk_s, each_s),) = added
    assert chunk_s == 0.08 and each_s == pytest.approx(0.08 * (5 + 4) / 2)


def test_load_is_a_median_of_recent_steps() -> None:
    now = [0.0]
    load = Load(lambda: now[0])
    for seconds in (0.02, 4.0, 0.04):
        load.add(seconds, 0.08, 0.08)
    assert load.value == 0.5
    now[0] = 2.0
    load.add(0.16, 0.08, 0.01)
    now[0] = 4.0
    assert load.value == 2.0


def test_clients_are_warned_when_the_load_exceeds_real_time(
    recognizer: TextTask, audio: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def warned(load: float) -> list[dict[str, Any]]:
        monkeypatch.setattr(Engine, "load", load)
        hub, messages = Hub(Engine(recognizer, clock=lambda: 0.0)), list[dict[str, Any]]()
        stream = hub.open()
        stream.outbox.put = messages.append  # type: ignore[method-assign]
        running = asyncio.create_task(hub.run())
        for at in range(8):
            consumed, samples = hub._stepped, audio(CHUNK, at)
            await hub.push(stream, samples)
            await asyncio.wait_for(consumed.wait(), 60)
        running.cancel()
        return [message for message in messages if message["type"] == "lag"]

    (message,) = asyncio.run(warned(1.5))  # one per second
    assert message["load"] == 1.5
    assert not asyncio.run(warned(0.9))


def test_a_slow_reader_gets_merged_results_in_order() -> None:
    async def read() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        outbox = Outbox()
        outbox.put({"type": "partial", "text": "a", "codes": [[1]], "first_frame": 4, "frames": 5})
        outbox.put({"type": "final", "text": "abc"})
        outbox.put({"type": "lag"})
        outbox.put({"type": "partial", "text": "b", "codes": [[2], [3]], "first_frame": 5, "frames": 7})
        messages = [await outbox.next() for _ in range(3)]
        outbox.put({"type": "partial", "text": "c", "codes": [], "first_frame": 7, "frames": 7})
        return [*messages, await outbox.next(), await outbox.next()], outbox.so_far

    messages, so_far = asyncio.run(read())
    (merged,) = (message for message in messages[:2] if message["type"] == "partial")
    assert merged == {"type": "partial", "text": "ab", "codes": [[1], [2], [3]], "first_frame": 4, "frames": 7}
    kinds = ["final", "partial", "final"]  # a final result stays until the stream is forgotten
    assert [message["type"] for message in messages[2:]] == kinds and so_far == {"text": "abc"}
