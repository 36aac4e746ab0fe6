"""Results of an engine for each kind of model and context equal those without a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from recognizers import mean_frame, stepped, transducer

from streamnest.checkpoint.loading import load_model
from streamnest.data.conversations.simulation import clipped
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.downstream.diarization.task import Diarizer
from streamnest.errors import UserError
from streamnest.objectives import MaskedAndNextToken
from streamnest.pretraining import Pretraining
from streamnest.serving.certification import measure_lookahead
from streamnest.serving.engine import Engine
from streamnest.serving.stream import Result
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings

STORED = Path(__file__).parents[1] / "fixtures/stored"
Audio = Callable[..., torch.Tensor]


def served(engine: Engine, waves: dict[int, torch.Tensor]) -> dict[int, list[Result]]:
    """Returns the results of streams in pieces of random sizes."""
    generator, results = random.Random(0), list[Result]()
    rest = dict(waves)
    while rest:
        number = generator.choice(list(rest))
        size = generator.choice([800, 1281, 5000])
        engine.push(number, rest[number][:size])
        rest[number] = rest[number][size:]
        if not len(rest[number]):
            engine.end(number)
            del rest[number]
        results += engine.step()
    results += stepped(engine)
    return {number: [result for result in results if result.stream == number] for number in waves}


def joined(results: list[Result], name: str) -> list[Any]:
    """Returns the rows of all results, whose numbers must be consecutive."""
    rows: list[Any] = []
    for result in results:
        assert result.fields["first_frame"] == len(rows)
        rows += result.fields[name]
    return rows


def test_transducers_get_the_text_of_recognition(run_config: Callable[..., DictConfig], audio: Audio) -> None:
    model = transducer(run_config("task=rnnt", "encoder=lookahead80", "size.num_layers=1"))
    engine, waves = Engine(model), [audio(20000), audio(9000, 1)]
    found = served(engine, {engine.open(): wave for wave in waves})
    for results, wave in zip(found.values(), waves, strict=True):
        stream = StreamingRecognizer(model)
        assert results[-1].fields == {"text": stream.push(wave) + stream.flush()}
        assert results[-1].kind == "final" and len(results[-1].fields["text"]) > 3


def test_diarizers_serve_activity_and_turns_of_the_whole_audio(audio: Audio) -> None:
    model, wave = load_model(STORED / "diarization.ckpt"), audio(40000)
    assert isinstance(model, Diarizer)
    with torch.no_grad():
        model.head.out.weight *= 40
        mean = model.head(mean_frame(model).expand(1, 20, -1))[0][0, -1]
        model.head.out.bias -= mean
    engine = Engine(model)
    (results,) = served(engine, {engine.open(): wave}).values()
    (active,) = model.diarize(wave[None], torch.tensor([40000]))
    turns = clipped(model.turns(active), 2.5)
    assert joined(results, "active") == active.int().tolist() and 0 < active.float().mean() < 1
    expected = [(turn.speaker, round(turn.start, 3), round(turn.end, 3)) for turn in turns]
    assert [tuple(turn.values()) for turn in results[-1].fields["turns"]] == expected and len(turns) > 1
    ended = [tuple(turn.values()) for result in results[:-1] for turn in result.fields["turns"]]
    assert set(ended) <= set(expected) and results[0].kind == "partial"
    assert engine.served.described(None)["speakers"] == active.shape[1]


@torch.no_grad()
def test_contexts_are_chosen_by_stream_and_serve_codes(audio: Audio) -> None:
    model, wave = load_model(STORED / "dynamic.ckpt"), audio(30000)
    assert isinstance(model, Pretraining) and isinstance(model.objective, MaskedAndNextToken)
    heads = model.objective.masked.heads
    heads.bias.copy_(-heads.weight @ mean_frame(model))
    engine = Engine(model)
    assert engine.served.context == model.encoder.context_name == "lookahead80"
    assert "full" not in engine.served.sessions and engine.served.latency["causal"]["chunk_ms"] == 40
    names = ("causal", "lookahead320", None)
    found = served(engine, {engine.open(name): wave for name in names})
    expected = []
    for name in names:
        model.encoder.use_context(name)
        encoded, frames = model(wave[None], torch.tensor([30000]))
        expected.append(model.objective.logits(encoded[0, : int(frames)]).argmax(-1).tolist())
    assert [joined(results, "codes") for results in found.values()] == expected
    assert expected[0] != expected[1] != expected[2]
    assert all(results[-1].frames == len(codes) for results, codes in zip(found.values(), expected, strict=True))
    with pytest.raises(UserError, match="choose one of causal, lookahead40"):
        engine.open("full")
    assert len(engine) == 0


def test_a_server_chooses_contexts_per_chunk_within_its_budget(audio: Audio) -> None:
    model, waves = load_model(STORED / "dynamic.ckpt"), [audio(30000), audio(30000, 1)]
    engine = Engine(model, adaptive=AdaptiveSettings(190, "load"))
    figures = engine.served.latency["adaptive"]
    assert engine.served.context == "adaptive" and figures["latency_mean_ms"] == 190
    assert figures["latency_worst_ms"] == engine.served.latency["lookahead1040"]["latency_worst_ms"]
    found = served(engine, {engine.open(): waves[0], engine.open("causal"): waves[1]})
    assert [results[-1].frames for results in found.values()] == [47, 47]
    measure_lookahead(model, engine.served.latency)
    assert figures["lookahead_measured"] is True
    session = engine.served.sessions["adaptive"]
    assert isinstance(session, AdaptiveSession) and not any(h.choices for h in session.flushed.values())


def test_models_without_results_or_contexts_are_refused() -> None:
    with pytest.raises(UserError, match="no results to serve: give a checkpoint of task=ctc"):
        Engine(load_model(STORED / "speaker.ckpt"))
    with pytest.raises(UserError, match="leave it out, because this model has only one"):
        Engine(load_model(STORED / "ctc.ckpt")).open("causal")
    with pytest.raises(UserError, match="needs a checkpoint of encoder=dynamic"):
        Engine(load_model(STORED / "ctc.ckpt"), adaptive=AdaptiveSettings(100, "load"))
