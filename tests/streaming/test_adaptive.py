"""Adaptive look-ahead: streamed frames equal an offline forward with the same chunks, within the budget of latency."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ready
from omegaconf import DictConfig
from recognizers import recognizer, transducer

from streamnest.commands import serve, transcribe
from streamnest.commands import stream as streaming_command
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.encoder.schedule import Chunk, Schedule, using_context
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession, long_forward
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings, chosen_chunks
from streamnest.streaming.adaptive.certificate import adaptive_look_ahead
from streamnest.streaming.adaptive.chosen_chunks import compare_with_chunks, forward_with_chunks
from streamnest.streaming.adaptive.contexts import adaptive_contexts
from streamnest.streaming.simulation import emission_samples

Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]
# Left contexts of several lengths, so that the past of the state is longer than that of most contexts.
SPEECH = sorted((Path(__file__).parents[2] / "data/sample16k/speech").glob("*.ogg"))[0]
DYNAMIC = (
    "encoder=lookahead80",
    "+encoder.contexts={full: {right_context_ms: null}, short: {left_context_ms: 160, right_context_ms: 0}, "
    "some: {left_context_ms: 480, right_context_ms: 80}, long: {right_context_ms: 320}}",
)


_BUILT: dict[str, Pretraining] = {}


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    """A copy of one model, because composing a config takes longer than most of these tests."""
    built = _BUILT.get("model") or _BUILT.setdefault("model", ready(run_config(*DYNAMIC)).double())
    return copy.deepcopy(built)


def streamed(
    session: AdaptiveSession, rows: Sequence[torch.Tensor], piece: int
) -> tuple[list[torch.Tensor], list[int]]:
    """Streams rows together in pieces; shorter ones are flushed earlier."""
    numbers = [session.open() for _ in rows]
    frames: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
    for start in range(0, max(map(len, rows)), piece):
        out = session.push({n: row[start : start + piece] for n, row in zip(numbers, rows, strict=True)})
        for number, part in out.items():
            frames[number].append(part)
    last = session.flush(numbers)
    return [torch.cat([*frames[number], last[number]]) for number in numbers], numbers


@pytest.mark.parametrize(
    ("rule", "factor", "padding"), [("random", 8, "shifted"), ("preview", 4, "aligned"), ("entropy", 4, "shifted")]
)
def test_streams_equal_an_offline_forward_with_the_same_chunks(
    run_config: Compose, speech_like: Audio, rule: str, factor: int, padding: str
) -> None:
    # 160, 480, 80 and 320 ms are whole frames of both lengths.
    overrides = [f"encoder.subsampling_factor={factor}", f"encoder.subsampling_padding={padding}"]
    single = ready(run_config(*DYNAMIC, *overrides))
    audio, lengths = speech_like(3, 64000), torch.tensor([64000, 41777, 20161])
    for model, tolerance in ((single, 1e-5), (copy.deepcopy(single).double(), 1e-10)):
        rows = [row[:length].to(model.frontend.window) for row, length in zip(audio, lengths, strict=True)]
        session = AdaptiveSession(model, AdaptiveSettings(130, rule), max_left_ms=1440)
        frames, numbers = streamed(session, rows, 700)
        chunks = [session.flushed[number].chunks for number in numbers]
        offline, valid = forward_with_chunks(model, audio.to(rows[0]), lengths, chunks)
        assert len({tuple(row) for row in chunks}) == 3 and all(len(set(row)) > 1 for row in chunks)
        for number, length in enumerate(valid.tolist()):
            torch.testing.assert_close(frames[number], offline[number, :length], rtol=0, atol=tolerance)
        assert all(history.mean_ms <= 130 for history in session.flushed.values())


@pytest.mark.parametrize("rule", ["preview", "energy"])
def test_any_split_of_the_audio_gives_the_same_choices(model: Pretraining, speech_like: Audio, rule: str) -> None:
    audio, found = speech_like(1, 40000)[0].double(), []
    for piece in (40000, 7001, 640, 10):
        session = AdaptiveSession(model, AdaptiveSettings(130, rule))
        (frames,), (number,) = streamed(session, [audio], piece)
        found.append((session.flushed[number].choices, frames))
    assert all(choices == found[0][0] for choices, _ in found)
    assert all(torch.equal(frames, found[0][1]) for _, frames in found)


def test_a_fixed_context_gives_the_frames_of_its_own_session(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(1, 40000)[0].double()
    for context in adaptive_contexts(model):
        session = AdaptiveSession(model, AdaptiveSettings(context.mean_ms, f"fixed:{context.name}"))
        (frames,), (number,) = streamed(session, [audio], 1000)
        assert set(session.flushed[number].choices) == {context}
        model.encoder.use_context(context.name)
        expected, valid = model(audio[None], torch.tensor([len(audio)]))
        model.encoder.use_context(None)
        torch.testing.assert_close(frames, expected[0, : int(valid)], rtol=0, atol=1e-10)


def test_emission_agrees_with_the_reported_mean_and_worst_latency(model: Pretraining, speech_like: Audio) -> None:
    session = AdaptiveSession(model, AdaptiveSettings(130, "fixed:long"))
    audio = speech_like(1, 48000)[0].double()
    times = emission_samples(session, audio)
    history = next(iter(session.flushed.values()))
    unit = 40 * 16
    delays = torch.tensor([time / 16 - 40 * frame for frame, time in enumerate(times)])
    chunks = [chunk for chunk in history.chunks if chunk.frames]
    ends = torch.tensor([chunk.frames for chunk in chunks]).cumsum(0)
    expected = [int(end) for end, chunk in zip(ends, chunks, strict=True) for _ in range(chunk.frames)]
    assert times == [end * unit + session.model.frontend.overhang for end in expected[: len(times)]]
    assert delays.max() == session.worst_ms == 362.5
    whole = int(ends[ends <= len(times)][-1])
    latency = sum(c.frames * c.mean_ms for c in history.choices[: int((ends <= whole).sum())]) / whole
    assert float(delays[:whole].mean()) - 20 == pytest.approx(latency) and latency <= 130


def test_waiting_audio_gets_larger_chunks_with_the_load_rule(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(1, 48000)[0].double()
    frames = []
    for piece in (640, 48000):
        session = AdaptiveSession(model, AdaptiveSettings(190, "load"))
        _, (number,) = streamed(session, [audio], piece)
        frames.append(session.flushed[number].frames)
    assert frames[0] == {"short": 75, "some": 0, "long": 0}
    assert frames[1]["long"] > 60


def test_chunks_after_a_frame_do_not_change_it(model: Pretraining, speech_like: Audio) -> None:
    audio, lengths = speech_like(2, 24000).double(), torch.tensor([24000, 24000])
    audio[1] = audio[0]
    audio[1, 19 * 640 :] *= -1
    first = [Chunk.of(3, 12), Chunk.of(1, 4), Chunk.of(9, 36), Chunk.of(5, 2)]  # 18 frames and the overhang of a window
    rows = [[*first, *[Chunk.of(1, 4)] * 40], [*first, *[Chunk.of(9, 36)] * 5]]
    encoded, _ = forward_with_chunks(model, audio, lengths, rows)
    assert torch.equal(encoded[0, :18], encoded[1, :18]) and not torch.equal(encoded[0, 18:], encoded[1, 18:])


def test_recordings_over_the_limit_are_compared_up_to_it(
    model: Pretraining, speech_like: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (chosen_chunks, long_forward):
        monkeypatch.setattr(module, "FULL_FORWARD_S", 1.5)
    audio = speech_like(1, 40000)[0].double()
    session = AdaptiveSession(model, AdaptiveSettings(130, "random"), max_left_ms=360)
    (frames,), (number,) = streamed(session, [audio], 1000)
    chunks = session.flushed[number].chunks
    compared = compare_with_chunks(model, audio, frames, chunks, 1e-10)
    assert compared.equal and 28 <= len(compared.per_frame) <= 37
    frames[20] += 1e-6
    assert compare_with_chunks(model, audio, frames, chunks, 1e-10).first_differing_frame == 20


def test_the_certificate_covers_switches_of_the_context(model: Pretraining) -> None:
    checks = adaptive_look_ahead(model, 0)
    assert len(checks) == 3 and all(check.passed for check in checks)
    assert (checks[-1].declared, checks[-1].measured) == ("at most 362.5 ms", "362.5 ms")


def test_the_certificate_detects_a_cache_that_loses_frames(model: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "visible", lambda self, q, k: super(Schedule, self).visible(q, k))
    assert [check.passed for check in adaptive_look_ahead(model, 0)] == [False, False, True]


def test_a_session_without_records_keeps_counts_only(model: Pretraining, speech_like: Audio) -> None:
    session = AdaptiveSession(model, AdaptiveSettings(130, "energy"), record=False)
    _, (number,) = streamed(session, [speech_like(1, 20000)[0].double()], 1000)
    history = session.flushed[number]
    assert not history.chunks and sum(history.frames.values()) == 32


@pytest.mark.parametrize(
    ("rule", "budget", "names", "message"),
    [
        ("entropy", float("inf"), None, "inf ms cannot be met"),
        ("entropy", 20, None, "20 ms cannot be met: the smallest context, short, has 22.5 ms"),
        ("what", 100, None, "choose one of entropy, preview, energy, load, random, fixed:short, fixed:some"),
        ("entropy", 100, ("full", "short"), "full cannot be chosen per chunk"),
        ("entropy", 100, ("some",), "there are 1: choose a fixed context"),
        ("entropy", 100, ("other",), "not trained with a context 'other'"),
    ],
)
def test_settings_out_of_range_are_refused(
    model: Pretraining, rule: str, budget: float, names: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        AdaptiveSession(model, AdaptiveSettings(budget, rule, names))


def test_models_that_cannot_switch_are_refused(run_config: Compose) -> None:
    regular = ready(run_config("encoder=dynamic", "encoder.style=regular", "encoder.allow_future_leak=true"))
    with pytest.raises(UserError, match=r"causal cannot be chosen per chunk: it needs encoder.style=chunked"):
        AdaptiveSession(regular, AdaptiveSettings(100, "energy", ("causal", "lookahead40")))
    with pytest.raises(UserError, match="a chunk of a schedule needs a limited left context"):
        Chunk(None, 1)
    with pytest.raises(UserError, match="needs a checkpoint of encoder=dynamic"):
        AdaptiveSession(ready(run_config("encoder=causal")), AdaptiveSettings(100))
    with pytest.raises(UserError, match="entropy and preview need"):
        AdaptiveSession(transducer(run_config("encoder=dynamic", "task=rnnt")), AdaptiveSettings(100))


def test_the_longest_left_context_of_a_chunk_takes_part(run_config: Compose) -> None:
    model = ready(run_config("encoder=dynamic"))
    names = [context.name for context in adaptive_contexts(model)]
    assert names == ["causal", "lookahead40", "lookahead80", "lookahead320", "lookahead1040"]
    assert [c.name for c in adaptive_contexts(model, ("limited3200", "lookahead40", "causal"))] == names[:2]
    limited = adaptive_contexts(model, ("limited3200", "lookahead320"))
    assert [(c.name, c.chunk.left, c.worst_ms) for c in limited] == [
        ("limited3200", 80, 42.5),
        ("lookahead320", 495, 362.5),
    ]
    assert model.encoder.context == model.encoder.default_context


def test_an_ordinary_session_is_the_same_beside_an_adaptive_one(model: Pretraining, speech_like: Audio) -> None:
    audio = speech_like(1, 20000)[0].double()
    adaptive = AdaptiveSession(model, AdaptiveSettings(130, "random"))
    plain = StreamingSession(model)
    number, other = plain.open(), adaptive.open()
    frames = []
    for piece in audio.split(900):
        adaptive.push({other: piece})
        frames.append(plain.push({number: piece})[number])
    frames.append(plain.flush([number])[number])
    expected, _ = model(audio[None], torch.tensor([len(audio)]))
    torch.testing.assert_close(torch.cat(frames), expected[0], rtol=0, atol=1e-10)
    with using_context(model.encoder, Chunk.of(1, 1)):
        assert model.encoder.chunk == 1


def test_streamed_text_is_that_of_the_chosen_chunks(run_config: Compose, speech_like: Audio) -> None:
    recognizer_model, audio = recognizer(run_config("task=ctc", "encoder=dynamic")).double(), speech_like(1, 40000)
    stream = StreamingRecognizer(recognizer_model, adaptive=AdaptiveSettings(120, "preview"))
    text = "".join([*map(stream.push, audio[0].double().split(1600)), stream.flush()])
    assert isinstance(stream.session, AdaptiveSession)
    chunks = [history.chunks for history in stream.session.flushed.values()]
    with using_context(recognizer_model.encoder, Schedule.of(chunks)):
        assert recognizer_model.recognize(audio.double(), torch.tensor([40000])) == [text]
    assert len(set(text)) > 3


def test_the_command_compares_and_reports_latency_and_contexts(
    model: Pretraining, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_command, "load_model", lambda *_: model.float())
    made, folder = tmp_path / "streamed.json", tmp_path / "plots"
    options = ["--adaptive", "0.13s", "--adaptive-rule", "energy", "--json", str(made), "--plots", str(folder)]
    assert streaming_command.main(["model.ckpt", str(SPEECH), "--compare-modes", *options]) == 0
    (record,) = json.loads(made.read_text())
    adaptive = record["adaptive"]
    assert sum(adaptive["frames"].values()) == record["num_frames"] and record["comparison"]["equal"]
    assert set(adaptive["chunks"]) <= {"short", "some", "long"} and 22.5 < adaptive["latency_mean_ms"] <= 130
    printed = " ".join(capsys.readouterr().out.split())
    assert "ms mean (budget 130 ms, rule energy), 362.5 ms worst (that of long)" in printed
    assert "streamed and offline frames are equal within 1e-05" in printed
    assert {path.name for path in folder.iterdir()} == {
        f"{SPEECH.stem}_{kind}.png" for kind in ("contexts", "difference")
    }


def status_of(command: Any, options: list[str]) -> Any:
    """Runs a command; returns its exit status, also if the parser of its arguments exits."""
    try:
        return command.main(options)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("stream", ["m.ckpt", "a.wav", "--adaptive", "12x"], "'12x' is not a latency above 0, such as 120ms"),
        ("stream", ["m.ckpt", "a.wav", "--adaptive", "0"], "'0' is not a latency above 0, such as 120ms"),
        ("stream", ["m.ckpt", "a.wav", "--adaptive", "120", "--context", "causal"], "leave out --context"),
        ("transcribe", ["m.ckpt", "--stream", "a.wav", "--adaptive", "1s", "--context", "full"], "leave out --context"),
        ("stream", ["m.onnx", "a.wav", "--adaptive", "120ms"], "give its checkpoint"),
        ("transcribe", ["m.ckpt", "a.wav", "--adaptive", "120ms"], "--adaptive needs --stream"),
        ("serve", ["m.ckpt", "--adaptive", "120ms", "--static", "out"], "leave out --context and --static"),
        ("serve", ["m.ckpt", "--adaptive", "120ms", "--context", "full"], "leave out --context and --static"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    command: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of({"stream": streaming_command, "transcribe": transcribe, "serve": serve}[command], options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
