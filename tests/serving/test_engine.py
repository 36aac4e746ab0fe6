"""Streams of one engine: their texts, failures and limits."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from recognizers import stepped

from streamnest.downstream.asr.recognition import TextTask
from streamnest.errors import UserError
from streamnest.serving.engine import Engine
from streamnest.serving.limits import Limits
from streamnest.serving.stream import BusyError, Result

Audio = Callable[..., torch.Tensor]
TextOf = Callable[[torch.Tensor], str]


def texts(results: list[Result], kind: str = "final") -> dict[int, str]:
    name = "message" if kind == "error" else "text"
    return {result.stream: result.fields[name] for result in results if result.kind == kind}


@pytest.mark.parametrize("seed", [0, 1])
def test_texts_equal_offline_ones_for_any_arrival_order(
    seed: int, recognizer: TextTask, audio: Audio, text_of: TextOf
) -> None:
    generator, engine = random.Random(seed), Engine(recognizer)
    waves = [audio(length, length) for length in (20000, 15999, 300, 8000)]
    numbers, results = [engine.open() for _ in waves], []
    rest = dict(zip(numbers, waves, strict=True))
    while rest:
        number = generator.choice(list(rest))
        size = generator.choice([1, 77, 1280, 7000])
        engine.push(number, rest[number][:size])
        rest[number] = rest[number][size:]
        if not len(rest[number]):
            engine.end(number)
            del rest[number]
        if generator.random() < 0.4:
            results += engine.step()
    results += stepped(engine)
    assert texts(results) == {n: text_of(wave) for n, wave in zip(numbers, waves, strict=True)}
    assert len(texts(results)[numbers[0]]) > 5 and len(engine) == 0
    partial = "".join(r.fields["text"] for r in results if r.stream == numbers[0] and r.kind == "partial")
    assert partial and texts(results)[numbers[0]].startswith(partial)
    (last,) = (r for r in results if r.stream == numbers[0] and r.kind == "final")
    assert last.seconds == 20000 / 16000


@pytest.mark.parametrize(
    "garbage", [[float("nan")], [1e9], [[0.0, 0.0]], ["a"], torch.zeros(3, dtype=torch.uint8)], ids=str
)
def test_refused_samples_change_no_stream(garbage: Any, recognizer: TextTask, audio: Audio, text_of: TextOf) -> None:
    engine, wave = Engine(recognizer), audio(6000)
    first, second = engine.open(), engine.open()
    engine.push(first, wave[:3000])
    engine.push(second, wave[:5000])
    with pytest.raises(UserError, match="samples must be"):
        engine.push(second, garbage)
    engine.close(second)
    engine.push(first, wave[3000:])
    engine.end(first)
    assert texts(stepped(engine)) == {first: text_of(wave)}


@pytest.mark.parametrize("at_end", [False, True])
def test_a_failing_stream_leaves_the_others_their_texts(
    at_end: bool, recognizer: TextTask, audio: Audio, text_of: TextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, waves = Engine(recognizer), [audio(6000, seed) for seed in range(3)]
    numbers = [engine.open() for _ in waves]
    session: Any = engine.served.sessions[None]
    compute = session._step

    def step(group: list[Any], chunks: int) -> None:
        if any(stream.num_samples_in == 5999 and (stream.end is not None or not at_end) for stream in group):
            raise RuntimeError
        compute(group, chunks)

    monkeypatch.setattr(session, "_step", step)
    for number, wave in zip(numbers, waves, strict=True):
        engine.push(number, wave[: 5999 if number == numbers[1] else 6000])
        engine.end(number)
    results = stepped(engine)
    assert texts(results) == {n: text_of(waves[n]) for n in (numbers[0], numbers[2])}
    assert list(texts(results, "error")) == [numbers[1]]
    assert not len(engine) and not session._streams


def test_queues_and_number_of_streams_are_bounded(recognizer: TextTask, audio: Audio) -> None:
    engine = Engine(recognizer, Limits(streams=2, queue_s=0.5, queue_pieces=4))
    first, second = engine.open(), engine.open()
    with pytest.raises(BusyError, match="busy with 2 streams"):
        engine.open()
    engine.push(first, audio(8000))
    assert engine.lags_s() == {first: 0.5, second: 0} and not engine.has_room(first) and engine.has_room(second)
    with pytest.raises(UserError, match="s of audio are waiting"):
        engine.push(first, audio(1))
    for _ in range(4):
        engine.push(second, audio(1))
    assert not engine.has_room(second)
    engine.end(second)
    with pytest.raises(UserError, match="has ended"):
        engine.push(second, audio(1))
    stepped(engine)
    assert engine.has_room(first) and set(engine.lags_s().values()) == {0}
    engine.open()
    engine.close(first)
    engine.open()  # at once, before a step has removed the closed stream


def test_a_failing_decoder_ends_its_stream_only(
    recognizer: TextTask, audio: Audio, text_of: TextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, wave = Engine(recognizer), audio(6000)
    numbers = [engine.open(), engine.open()]
    monkeypatch.setattr(engine._streams[numbers[0]].decoder, "add", None)
    for number in numbers:
        engine.push(number, wave)
        engine.step()
        with suppress(UserError):
            engine.end(number)
    results = stepped(engine)
    assert texts(results) == {numbers[1]: text_of(wave)} and len(engine) == 0


def test_streams_without_text_report_their_progress(recognizer: TextTask) -> None:
    engine = Engine(recognizer, Limits(step_s=0.1))
    number = engine.open()
    engine._streams[number].decoder.add = lambda _: {"text": ""}  # type: ignore[method-assign]
    engine.push(number, torch.zeros(40000))
    results = stepped(engine)
    assert [(result.kind, result.seconds) for result in results] == [("partial", 1.0), ("partial", 2.0)]
    assert results[0].frames == 24


def test_a_backlog_is_consumed_in_bounded_steps(recognizer: TextTask, audio: Audio) -> None:
    engine = Engine(recognizer, Limits(step_s=0.2))
    slow, fast = engine.open(), engine.open()
    engine.push(fast, audio(16000))
    engine.push(slow, audio(1600))
    engine.step()
    assert engine.lags_s() == {fast: 0.8, slow: 0}


def test_metrics_count_streams_steps_and_failures(recognizer: TextTask, audio: Audio) -> None:
    engine = Engine(recognizer, Limits(streams=1))
    engine.push(engine.open(), audio(1600))
    with pytest.raises(BusyError):
        engine.open()
    engine.step()
    lines = engine.statistics.text(len(engine), 2, 0.5, 0.25).splitlines()
    for line in (
        "streams 1",
        "kept_streams 2",
        "lag_seconds 0.5",
        "load 0.25",
        "streams_refused_total 1",
        "audio_seconds_total 0.1",
        'batch_size_bucket{le="1"} 1',
    ):
        assert f"streamnest_{line}" in lines
    assert 'streamnest_step_seconds_bucket{le="+Inf"} 1' in lines and "streamnest_step_seconds_count 1" in lines
