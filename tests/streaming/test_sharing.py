"""Sessions refuse invalid samples and states, serve several threads, and use little memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.samples import LOUDEST
from streamnest.streaming import StreamingSession
from streamnest.streaming import onnx_session as runtime
from streamnest.streaming.audio_sources import load_audio
from streamnest.streaming.session_base import MOST_PENDING_S

Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    return ready(run_config("encoder=lookahead40", "size.num_layers=1"))


def streamed(session: StreamingSession, samples: Any) -> torch.Tensor:
    number = session.open()
    return torch.cat([session.push({number: samples})[number], session.flush([number])[number]])


def test_all_sample_types_give_the_same_frames(model: Pretraining, speech_like: Audio) -> None:
    audio, session = (speech_like(1, 8000)[0] * 32767).round() / 32768, StreamingSession(model)
    short, expected = (audio * 32768).to(torch.int16), streamed(session, audio)
    for kind in (short, short.int() * 65536, short.numpy(), short.numpy().astype(">i2"), short.numpy()[::-1][::-1]):
        torch.testing.assert_close(streamed(session, kind), expected)
        torch.testing.assert_close(model(kind[None], torch.tensor([8000]))[0][0], expected, rtol=0, atol=1e-5)
    for kind in (audio.double(), audio.numpy(), audio.numpy().astype(np.longdouble), audio.tolist()):
        torch.testing.assert_close(streamed(session, kind), expected)
    for half in (audio.half(), audio.bfloat16(), audio.numpy().astype(np.float16)):
        assert streamed(session, half).shape == expected.shape


def test_other_types_of_samples_are_refused(model: Pretraining) -> None:
    session, samples = StreamingSession(model), torch.ones(2000)
    for kind in (torch.uint8, torch.int8, torch.int64, torch.bool, torch.complex64):
        for given in (samples.to(kind), samples.to(kind).numpy()):
            with pytest.raises(UserError, match=r"samples .* in \[-1, 1\]"):
                streamed(session, given)
            with pytest.raises(UserError, match=r"samples .* in \[-1, 1\]"):
                model(given[None], torch.tensor([2000]))


def test_samples_beyond_the_bound_are_refused(model: Pretraining) -> None:
    for wrong in (1e19, LOUDEST * 1.01, float("nan"), float("-inf")):
        samples = torch.zeros(2000)
        samples[1234] = wrong
        with pytest.raises(UserError, match="samples"):
            streamed(StreamingSession(model), samples)
        with pytest.raises(UserError, match="samples"):
            model(samples[None], torch.tensor([2000]))


def test_values_that_are_not_samples_are_refused(model: Pretraining) -> None:
    sparse, nested = (
        torch.ones(9, dtype=torch.int16).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(9)], layout=torch.jagged),
    )
    tensors = (torch.zeros(10, 1), sparse, nested, torch.zeros(9, device="meta"))
    for given in ("text", b"bytes", [[1.0], [2.0, 3.0]], [None], {"a": 1}, 0.5, *tensors):
        with pytest.raises(UserError, match="samples"):
            streamed(StreamingSession(model), given)


def test_samples_at_the_bound_give_finite_features(model: Pretraining) -> None:
    frames = streamed(StreamingSession(model), LOUDEST * (-1.0) ** torch.arange(8000))
    assert frames.isfinite().all()


def _changed(saved: dict[str, Any]) -> dict[str, Any]:
    """Invalid variants of a saved stream, by their fault."""
    nan, negative, wide = (copy.deepcopy(saved["state"]) for _ in range(3))
    nan[2][1][0][0][0].fill_(float("nan"))
    negative[0][2].fill_(-5)
    wide[0][1] = torch.zeros(1, 7)
    wrong: dict[str, Any] = {
        name: {k: v for k, v in saved.items() if k != name} for name in ("state", "num_samples_in")
    }
    for name, value in {
        "num_samples_in": -1,
        "emitted": 2.0,
        "pending": saved["pending"].double(),
        "encoder": "other",
    }.items():
        wrong[f"{name}={value}"[:20]] = {**saved, name: value}
    wrong |= {
        "nan": {**saved, "state": nan},
        "negative": {**saved, "state": negative},
        "wide": {**saved, "state": wide},
    }
    wrong |= {"less": {**saved, "emitted": saved["emitted"] - 2}, "list": [1], "none": None}
    wrong |= {"more": {**saved, "pending": torch.zeros(10**6), "num_samples_in": saved["num_samples_in"] + 10**6}}
    wrong |= {"loud": {**saved, "pending": saved["pending"] + 1e19}} if len(saved["pending"]) else {}
    wrong |= {"meta": {**saved, "pending": saved["pending"].to("meta")}}
    wrong |= {"fresh": {**saved, "state": 3}}
    return {**wrong, "bool": {**saved, "num_samples_in": True}, "ints": {**saved, "state": [[0] * 4, [0] * 3, [0] * 4]}}


def test_an_invalid_state_opens_no_stream(run_config: Compose, speech_like: Audio) -> None:
    for overrides in (["encoder.normalize=online"], ["encoder.subsampling_padding=shifted"]):
        model = ready(run_config("encoder=lookahead40", "size.num_layers=1", *overrides))
        session = StreamingSession(model)
        for samples in (0, 800, 9123):
            number = session.open()
            session.push({number: speech_like(1, samples)[0]})
            saved = session.save(number)
            for fault, wrong in _changed(saved).items():
                with pytest.raises(UserError):
                    print(fault, session.restore(wrong))
            assert list(session._streams) == [number]
            session.drop(session.restore({k: v for k, v in saved.items() if k != "encoder"}))
            session.drop(number)


def test_a_saved_stream_of_another_model_is_refused(run_config: Compose, speech_like: Audio) -> None:
    model = ready(run_config("encoder=causal", "size.num_layers=1"))
    session = StreamingSession(model)
    number = session.open()
    session.push({number: speech_like(1, 6400)[0]})
    saved = session.save(number)
    assert session.restore(saved) > number
    with torch.no_grad():
        model.encoder.layers[0].attention.out.weight.add_(0.1)
    assert session.restore(saved) > number, "a session keeps the weights of its start"
    with pytest.raises(UserError, match="another model"):
        StreamingSession(model).restore(saved)
    other = ready(run_config("encoder=lookahead40", "size.num_layers=1"))
    with pytest.raises(UserError, match="another model"):
        StreamingSession(other).restore(saved)
    short, long = (ready(run_config("encoder=buffered", f"encoder.chunk_ms={ms}")) for ms in (80, 160))
    session = StreamingSession(short)
    saved = session.save(session.open())
    assert session.restore(saved)
    with pytest.raises(UserError, match="another model or context"):
        StreamingSession(long).restore(saved)


def test_threads_may_share_a_session(model: Pretraining, speech_like: Audio) -> None:
    audio, session = speech_like(8, 16000), StreamingSession(model, max_left_ms=400)
    expected = [streamed(session, row) for row in audio]
    found: dict[tuple[int, int], torch.Tensor] = {}

    def repeat(rows: tuple[int, int]) -> None:
        for turn in range(5):
            work(rows, turn)

    def work(rows: tuple[int, int], turn: int) -> None:
        numbers = {session.open(): row for row in rows}
        parts: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
        for start in range(0, 16000, 500):
            for number, frames in session.push({n: audio[r, start : start + 500] for n, r in numbers.items()}).items():
                parts[number].append(frames)
        for number, frames in session.flush(list(numbers)).items():
            found[numbers[number], turn] = torch.cat([*parts[number], frames])

    threads = [threading.Thread(target=repeat, args=((row, row + 1),)) for row in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 5 * len(audio)
    for (row, _), frames in found.items():
        torch.testing.assert_close(frames, expected[row], rtol=0, atol=1e-5)


def _bytes(x: Any, storages: dict[int, int] | None = None) -> int:
    """Sums the bytes of all storages of an object, each counted once."""
    storages = {} if storages is None else storages
    if isinstance(x, torch.Tensor):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    elif isinstance(x, np.ndarray):
        whole = x if x.base is None else x.base
        storages[id(whole)] = whole.nbytes
    elif isinstance(x, tuple | list):
        for part in x:
            _bytes(part, storages)
    return sum(storages.values())


def test_a_paused_stream_keeps_only_pending_samples(model: Pretraining, speech_like: Audio) -> None:
    session = StreamingSession(model, max_left_ms=400)
    numbers, minute = [session.open() for _ in range(3)], speech_like(1, 32 * 16000 + 700)[0]
    session.push({numbers[0]: minute[:8000]})
    small = _bytes(session._streams[numbers[0]].state)
    session.push({numbers[0]: minute})
    session.push(dict.fromkeys(numbers[1:], minute))
    session._split_batch()
    for number in numbers:
        stream = session._streams[number]
        assert len(stream.pending) and _bytes(stream.pending) <= 8 * len(stream.pending)
        assert _bytes(stream.state) < 1.5 * small


def test_a_paused_stream_of_a_graph_keeps_only_pending_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {
        **{"sample_rate": 16000, "frame_ms": 40.0, "chunk_samples": 8, "first_samples": 8, "window_samples": 8},
        **{
            "d_model": 2,
            "initial_zeros": 0,
            "stem": "aligned",
            "warmup_frames": 0,
            "chunk_frames": 1,
            "batch": None,
            "open_end": 1 << 40,
            "state": [],
        },
    }
    graph = type("Graph", (), {"run": lambda *_: [np.zeros((1, 1, 2), np.float32)]})()
    monkeypatch.setattr(runtime, "_open", lambda *_: (graph, metadata))
    session = runtime.OnnxSession("any.onnx")
    number = session.open()
    session.push({number: torch.zeros(8005)})
    assert _bytes(session._streams[number].pending) == 4 * 5


def test_pending_samples_are_bounded(model: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    session = StreamingSession(model)
    monkeypatch.setattr(session, "_run", lambda streams: None)
    number, second = session.open(), torch.zeros(16000)
    for _ in range(int(MOST_PENDING_S) + 1):
        session.push({number: second})
    with pytest.raises(UserError, match="may be pending"):
        session.push({number: second})


def test_a_file_with_too_large_samples_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.full(1000, 1e19, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"loud\.wav .* 1e\+19"):
        load_audio(tmp_path / "loud.wav", 16000)


def test_every_setting_that_prevents_streaming_is_named(run_config: Compose) -> None:
    with pytest.raises(UserError, match=r"normalize=utterance, .*right_context_ms=null, .*symmetric, .*batch_norm"):
        StreamingSession(ready(run_config("encoder=bidirectional", "size.num_layers=1")))
