"""Metadata of untrusted graphs is refused with a message unless it agrees with the graph."""

from __future__ import annotations

import json
import os
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hostile import deep, mutated

from streamnest.errors import UserError
from streamnest.streaming import onnx_session as runtime
from streamnest.streaming.graph_metadata import read_metadata
from streamnest.streaming.onnx_session import OnnxSession

ROUNDS = int(os.environ.get("STREAMNEST_FUZZ", "1"))
STATE = [
    {"name": "past", "output": "next_past", "shape": [2, 5, 4], "dtype": "float32", "initial": 0.0},
    {"name": "num_features", "output": "next_num_features", "shape": [2], "dtype": "int64", "initial": -3},
    {"name": "sums", "output": "next_sums", "shape": [2, 2], "dtype": "float64", "initial": [0.5, 1.5]},
]
METADATA: dict[str, Any] = {
    **{"format": 1, "streamnest": "0.1.0", "preset": "causal", "context": None, "batch": 2, "quantization": None},
    **{"sample_rate": 16000, "hop_samples": 160, "chunk_samples": 640, "first_samples": 700, "window_samples": 900},
    **{"initial_zeros": 200, "open_end": 1 << 40, "frame_ms": 40.0, "chunk_frames": 1, "warmup_frames": 0},
    **{"d_model": 4, "stem": "aligned", "stem_stages": 2, "left_frames": 5, "left_unlimited": True, "state": STATE},
    "latency": {"latency_mean_ms": 22.5, "latency_worst_ms": 42.5, "left_ms": None, "streams": True},
    "config": {"frontend": {"num_mels": 80}, "encoder": {"d_model": 4}},
}
KINDS = {"float32": "tensor(float)", "int64": "tensor(int64)", "float64": "tensor(double)"}


def graph(frames: int = 1) -> Any:
    """A graph with the inputs and outputs of `METADATA`, whose step returns its state unchanged."""
    inputs = [
        ("audio", [2, 900], "float32"),
        ("end", [2], "int64"),
        *((e["name"], e["shape"], e["dtype"]) for e in STATE),
    ]
    outputs = [("encoded", [2, 1, 4], "float32"), *((e["output"], e["shape"], e["dtype"]) for e in STATE)]

    def described(tensors: list[Any]) -> list[Any]:
        return [SimpleNamespace(name=name, shape=shape, type=KINDS[kind]) for name, shape, kind in tensors]

    def run(_: Any, feeds: dict[str, Any]) -> list[Any]:
        return [torch.zeros(2, frames, 4).numpy(), *(feeds[entry["name"]] for entry in STATE)]

    return SimpleNamespace(get_inputs=lambda: described(inputs), get_outputs=lambda: described(outputs), run=run)


def test_mutated_metadata_runs_the_graph_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, outcomes = random.Random(24), {"run": 0, "refused": 0}
    monkeypatch.setattr(runtime, "_open", lambda stored, _: (graph(), read_metadata(stored, graph(), "a.onnx")))
    for _ in range(600 * ROUNDS):
        outcomes[outcome(json.dumps(mutated(METADATA, rng)))] += 1
    assert min(outcomes.values()) > 10, outcomes
    print(outcomes)


def outcome(stored: str) -> str:
    """Runs a stream of a second; returns whether the metadata was refused."""
    try:
        session = OnnxSession(stored)
    except UserError as error:
        return "refused" if str(error).startswith("a.onnx") else "a message without the file"
    number = session.open()
    session.push({number: torch.zeros(16000)})
    session.flush([number])
    return "run"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_samples": 0}, r"metadata\.chunk_samples=0 must be a whole number from 1"),
        ({"batch": -1}, r"metadata\.batch=-1 must be"),
        ({"window_samples": 10**12}, r"metadata\.window_samples=1000000000000 must be"),
        ({"window_samples": 901, "first_samples": 701}, r"input 'audio' of the graph is"),
        ({"chunk_samples": 320}, "chunk_samples=320 must be 640 for 1 frames"),
        ({"hop_samples": 1, "chunk_samples": 4}, "frame_ms=40 must be"),
        ({"d_model": 5}, "output 'encoded' of the graph"),
        ({"state": STATE[:1]}, "have different inputs"),
        ({"state": [*STATE, STATE[0]]}, "occurs twice"),
        ({"state": [{**STATE[0], "shape": [2, 10**9, 10**9]}]}, "must be a whole number"),
        ({"state": [{**STATE[0], "initial": [1, 2, 3]}, *STATE[1:]]}, "a.onnx: its content is not valid"),
        ({"latency": {}}, r"latency_mean_ms=None must be"),
        ({"config": deep()}, "more than 24 levels"),
    ],
)
def test_contradictory_metadata_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_metadata(json.dumps(METADATA | changes), graph(), "a.onnx")


@pytest.mark.parametrize("stored", [None, "", "{", "[]", "1", "[" * 100_000, '{"format": 2}', '{"format": 1}'])
def test_invalid_metadata_text_is_refused(stored: str | None) -> None:
    with pytest.raises(UserError, match=r"a\.onnx"):
        read_metadata(stored, graph(), "a.onnx")
    assert read_metadata(json.dumps(METADATA), graph(), "a.onnx") == METADATA


def test_a_step_without_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_open", lambda *_: (graph(frames=0), METADATA))
    session = OnnxSession("a.onnx")
    number = session.open()
    with pytest.raises(UserError, match=r"a\.onnx: a step of the graph returns \(2, 0, 4\) instead of \(2, 1, 4\)"):
        session.push({number: torch.zeros(700)})
    with pytest.raises(UserError, match="instead of"):
        session.flush([number])
