"""Streamed frames equal offline frames, however the audio is split."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from models import STREAMING_PRESETS, ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession

Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]
CASES = [
    (preset, factor, padding, "chunked")
    for preset, factor, padding in itertools.product(STREAMING_PRESETS, (4, 8), ("aligned", "shifted"))
    if (preset, factor) not in (("lookahead40", 8), ("lookahead1040", 8))
    and (preset, factor, padding) not in (("buffered", 4, "shifted"), ("buffered", 8, "aligned"))
]
STYLES = itertools.product(("lookahead80", "limited3200"), (4, 8), ("aligned", "shifted"), ("regular", "delayed"))
CASES += STYLES


def offline(model: Pretraining, audio: torch.Tensor) -> torch.Tensor:
    encoded, frames = model(audio[None], torch.tensor([len(audio)]))
    return encoded[0, : int(frames)]


def stream(session: StreamingSession, audio: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    number = session.open()
    pieces = torch.tensor_split(audio, sorted(cut % (len(audio) + 1) for cut in cuts))
    frames = [session.push({number: piece})[number] for piece in pieces]
    return torch.cat([*frames, session.flush([number])[number]])


@pytest.mark.parametrize(("preset", "factor", "padding", "style"), CASES)
def test_any_split_of_the_waveform_gives_the_offline_frames(
    run_config: Compose, speech_like: Audio, preset: str, factor: int, padding: str, style: str
) -> None:
    overrides = [f"encoder={preset}", f"encoder.subsampling_factor={factor}", f"encoder.subsampling_padding={padding}"]
    if style != "chunked":  # limited contexts with some look-ahead as well
        overrides += [f"encoder.style={style}", "encoder.right_context_ms=80"]
    single = ready(run_config(*overrides))
    double = copy.deepcopy(single).double()

    @settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(samples=st.integers(0, 40000), cuts=st.lists(st.integers(0, 1 << 30), max_size=8))
    @example(samples=16000, cuts=[])
    @example(samples=159, cuts=[3])
    def check(samples: int, cuts: list[int]) -> None:
        audio = speech_like(1, samples)[0]
        for model, tolerance in ((single, 1e-5), (double, 1e-10)):
            expected = offline(model, audio)
            found = stream(StreamingSession(model), audio, cuts)
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)

    check()


@pytest.mark.parametrize(
    ("style", "factor", "right_ms"),
    [("chunked", 4, 120), ("chunked", 8, 80), ("regular", 4, 80), ("delayed", 4, 80), ("buffered", 4, 120)],
)
def test_splits_longer_than_the_left_context_give_offline_frames(
    run_config: Compose, speech_like: Audio, style: str, factor: int, right_ms: int
) -> None:
    context = ["encoder.left_context_ms=320", f"encoder.right_context_ms={right_ms}", f"encoder.style={style}"]
    model = ready(run_config("encoder=causal", f"encoder.subsampling_factor={factor}", *context)).double()

    @settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(samples=st.integers(12000, 32000), cuts=st.lists(st.integers(0, 1 << 30), max_size=8))
    @example(samples=20000, cuts=list(range(640, 20000, 640)))
    @example(samples=19841, cuts=list(range(640, 20000, 640)))
    def check(samples: int, cuts: list[int]) -> None:
        audio = speech_like(1, samples)[0]
        found = stream(StreamingSession(model), audio, cuts)
        torch.testing.assert_close(found, offline(model, audio), rtol=0, atol=1e-10)

    check()


@pytest.mark.parametrize("overrides", ["encoder.normalize=online", "encoder.normalize=none frontend.kind=sherpa"])
def test_other_causal_features_stream_as_well(run_config: Compose, speech_like: Audio, overrides: str) -> None:
    model = ready(run_config(*overrides.split())).double()
    audio = speech_like(1, 30000)[0]
    torch.testing.assert_close(
        stream(StreamingSession(model), audio, [7000, 7001, 12345]), offline(model, audio), rtol=0, atol=1e-10
    )


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    return ready(run_config("encoder=lookahead40")).double()


def test_sample_by_sample_equals_all_at_once(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(1, 3000)[0]
    session = StreamingSession(model)
    number = session.open()
    frames = [session.push({number: sample[None]})[number] for sample in audio]
    found = torch.cat([*frames, session.flush([number])[number]])
    torch.testing.assert_close(found, offline(model, audio), rtol=0, atol=1e-10)


def test_a_chunk_is_emitted_with_its_last_sample(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(1, 8000)[0]
    session, chunk = StreamingSession(model), round(model.latency.chunk_ms * 16)
    number, times = session.open(), []
    for time, sample in enumerate(audio, 1):
        times += [time] * len(session.push({number: sample[None]})[number])
    # The worst declared latency is that of the first sample of a chunk.
    assert times[0] == times[1] == round(model.latency.latency_worst_ms * 16)
    assert times[2] - times[0] == chunk


def test_streams_opened_reset_and_closed_anytime_are_independent(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(4, 24000)
    session = StreamingSession(model)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in "abc"}
    a, b = session.open(), session.open()
    for start in range(0, 24000, 2000):
        pieces = {a: audio[0, start : start + 2000]}
        if start == 4000:
            session.reset(b)  # its audio up to here is discarded
        if start < 20000:
            pieces[b] = audio[1 if start >= 4000 else 3, start : start + 2000]
        if start == 10000:
            c = session.open()
        if start >= 10000:
            pieces[c] = audio[2, start : start + 1700]
        out = session.push(pieces)
        found["a"].append(out[a])
        found["b"] += [out[b]] if start >= 4000 and b in out else []
        found["c"] += [out[c]] if start >= 10000 else []
        if start == 18000:
            found["b"].append(session.flush([b])[b])
    found["a"].append(session.flush([a])[a])
    session.drop(c)
    whole = torch.cat([audio[2, start : start + 1700] for start in range(10000, 24000, 2000)])
    torch.testing.assert_close(torch.cat(found["a"]), offline(model, audio[0]), rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cat(found["b"]), offline(model, audio[1, 4000:20000]), rtol=0, atol=1e-10)
    dropped = torch.cat(found["c"])
    torch.testing.assert_close(dropped, offline(model, whole)[: len(dropped)], rtol=0, atol=1e-10)
    with pytest.raises(UserError, match="not open"):
        session.push({c: audio[0]})


def test_a_restored_stream_continues_bit_for_bit(model: Pretraining, speech_like: Audio, tmp_path: Path) -> None:
    audio = speech_like(1, 20000)[0]
    session = StreamingSession(model)
    number = session.open()
    session.push({number: audio[:9123]})
    torch.save(session.save(number), tmp_path / "stream.pt")
    other = StreamingSession(model)
    copied = other.restore(torch.load(tmp_path / "stream.pt", weights_only=True))
    for piece in audio[9123:].split(3000):
        assert torch.equal(session.push({number: piece})[number], other.push({copied: piece})[copied])
    assert torch.equal(session.flush([number])[number], other.flush([copied])[copied])


def test_a_refused_piece_changes_no_other_stream(model: Pretraining, speech_like: Audio) -> None:
    audio, session = speech_like(1, 16000)[0], StreamingSession(model)
    good, bad = session.open(), session.open()
    for wrong in ({bad: torch.tensor([float("nan")])}, {bad + 1: audio}):
        with pytest.raises(UserError):
            session.push({good: audio, **wrong})
    pushed = session.push({good: audio})[good]
    found = torch.cat([pushed, session.flush([good])[good]])
    torch.testing.assert_close(found, offline(model, audio), rtol=0, atol=1e-10)


def test_paused_streams_keep_no_memory_of_their_batch(model: Pretraining, speech_like: Audio) -> None:
    audio, session = speech_like(3, 20000), StreamingSession(model, max_left_ms=400)
    numbers = [session.open() for _ in range(3)]
    session.push({number: audio[number, :8000] for number in numbers})
    assert session._batch is not None and all(session._streams[number].state is None for number in numbers)
    session.push({number: audio[number, 8000:12000] for number in numbers[1:]})
    assert _stored(session._streams[0].state) == _elements(session._streams[0].state)
    session.flush(numbers[1:])
    assert session._batch is None


def test_streams_batched_in_changing_pairs_are_independent(model: Pretraining, speech_like: Audio) -> None:
    audio, session = speech_like(3, 24000), StreamingSession(model)
    pieces = [list(row.split(3000)) for row in audio]
    numbers, found = [session.open() for _ in range(3)], dict[int, list[torch.Tensor]](enumerate([[], [], []]))
    while any(pieces):
        for pair in ((0, 1), (1, 2), (0, 2)):
            out = session.push({numbers[n]: pieces[n].pop(0) for n in pair if pieces[n]})
            for n in pair:
                found[n].append(out.get(numbers[n], audio.new_zeros(0, model.encoder.d_model)))
    for n, number in enumerate(numbers):
        whole = torch.cat([*found[n], session.flush([number])[number]])
        torch.testing.assert_close(whole, offline(model, audio[n]), rtol=0, atol=1e-10)


def _stored(state: Any) -> int:
    """Counts the elements of the storages of a state."""
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes() // state.element_size()
    return sum(map(_stored, state))


def test_an_unlimited_context_becomes_a_window_past_the_cap(run_config: Compose, speech_like: Audio) -> None:
    overrides = ["encoder=causal", "encoder.left_context_ms=null"]
    unlimited = ready(run_config(*overrides)).double()
    limited = ready(run_config("encoder=causal", "encoder.left_context_ms=400")).double()
    audio = speech_like(1, 20000)[0]
    session = StreamingSession(unlimited, max_left_ms=400)
    number = session.open()
    early = session.push({number: audio[:6000]})[number]
    assert not session.windowed(number)
    late = session.push({number: audio[6000:]})[number]
    assert session.windowed(number)
    found = torch.cat([early, late, session.flush([number])[number]])
    torch.testing.assert_close(found, offline(limited, audio), rtol=0, atol=1e-10)
    assert not torch.allclose(found, offline(unlimited, audio), atol=1e-6)


def test_an_endless_stream_runs_in_constant_memory(run_config: Compose, speech_like: Audio) -> None:
    session = StreamingSession(ready(run_config("encoder=limited3200", "encoder.left_context_ms=400")))
    number, sizes = session.open(), set()
    for index in range(12):
        session.push({number: speech_like(1, 8000, index)[0]})
        saved = session.save(number)
        sizes.add((_elements(saved["state"]), len(saved["pending"])))
    assert len({elements for elements, _ in sizes}) == 1
    assert max(pending for _, pending in sizes) < session.chunk_samples


def _elements(state: Any) -> int:
    return state.numel() if isinstance(state, torch.Tensor) else sum(map(_elements, state))


def test_offline_models_and_invalid_samples_are_refused(run_config: Compose, model: Pretraining) -> None:
    with pytest.raises(UserError, match="cannot stream"):
        StreamingSession(ready(run_config("encoder=bidirectional")))
    session = StreamingSession(model)
    number = session.open()
    endless = torch.tensor([float("inf"), -float("inf")])
    for bad in (torch.zeros(2, 100), torch.tensor([0.0, float("nan")]), endless, endless[1:]):
        with pytest.raises(UserError, match="samples"):
            session.push({number: bad})
