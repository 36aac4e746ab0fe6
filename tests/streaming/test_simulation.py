"""Streaming of audio files: cost, comparison with offline output, analysis, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from inprocess import load, main
from lhotse import Recording
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import on_device
from streamnest.console.terminal import Terminal
from streamnest.data.audio import load_mono
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.analysis import analyze_predictions, code_counts
from streamnest.streaming import StreamingSession, comparison
from streamnest.streaming.audio_sources import find_audio, load_audio
from streamnest.streaming.comparison import compare_streaming_vs_offline
from streamnest.streaming.simulation import StreamResult, simulate_streaming_inference
from streamnest.streaming.tables import streamed_tables, verdict

ROOT = Path(__file__).parents[2]
SPEECH = sorted((ROOT / "data/sample16k/speech").glob("asterisk_en*.ogg"))[:2]


@pytest.fixture
def model(run_config: Callable[..., DictConfig]) -> Pretraining:
    return ready(run_config("encoder=lookahead40"))


@pytest.fixture
def checkpoint(model: Pretraining, tmp_path: Path) -> Path:
    stored: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(stored)
    torch.save(stored, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize("chunk_size", [None, 0.01, 0.4567, 100.0])
def test_streaming_a_file_is_measured_and_equals_offline(model: Pretraining, chunk_size: float | None) -> None:
    audio = load_audio(SPEECH[0], 16000)
    frames, result = simulate_streaming_inference(model, audio, chunk_size)
    assert len(frames) == result.num_frames == -(-(len(audio) // 160) // 4)
    assert 0 < result.compute_p50_ms <= result.compute_p95_ms <= result.compute_p99_ms
    assert result.first_frame_audio_ms >= model.latency.latency_worst_ms
    assert chunk_size or result.first_frame_audio_ms == model.latency.latency_worst_ms
    assert result.listener_mean_ms is None and not result.windowed
    assert compare_streaming_vs_offline(model, audio, chunk_size).equal


def test_compute_time_ends_when_the_device_has_finished(model: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(torch.cpu, "synchronize", lambda: waited.append(1))
    simulate_streaming_inference(model, 0.1 * torch.randn(16000), 0.32)
    assert len(waited) == 4


@pytest.mark.parametrize("padding", ["aligned", "shifted"])
def test_realtime_latency_is_at_least_the_algorithmic_latency(
    run_config: Callable[..., DictConfig], padding: str
) -> None:
    model = ready(run_config("encoder=lookahead40", f"encoder.subsampling_padding={padding}"))
    audio = load_audio(SPEECH[0], 16000)[:12800]
    arrived: list[float] = []
    _, result = simulate_streaming_inference(model, audio, 0.02, realtime=True, progress=arrived.append)
    assert arrived[:2] == [0.02, 0.04] and arrived[-1] == 0.8
    assert result.listener_mean_ms is not None and result.listener_worst_ms is not None
    assert result.listener_worst_ms >= model.latency.latency_worst_ms
    assert result.listener_mean_ms >= model.latency.latency_mean_ms


def test_the_first_differing_frame_is_found(model: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = load_audio(SPEECH[0], 16000)
    simulate = simulate_streaming_inference

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        frames, result = simulate(*args, **kwargs)
        frames[7:] += 0.01
        return frames, result

    monkeypatch.setattr(comparison, "simulate_streaming_inference", spoiled)
    found = compare_streaming_vs_offline(model, audio)
    assert not found.equal and found.first_differing_frame == 7
    assert found.max_difference == pytest.approx(0.01, abs=1e-5) and len(found.per_frame) > 7


def test_frames_may_differ_only_past_the_cap(model: Pretraining, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = load_audio(SPEECH[0], 16000)
    session = StreamingSession(model, max_left_ms=400)
    found = compare_streaming_vs_offline(model, audio, session=session)
    assert session.cap_frames == 10 and found.first_differing_frame is not None and found.first_differing_frame >= 10
    assert found.equal
    simulate = simulate_streaming_inference

    def spoiled(frame: int, value: float) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            frames, result = simulate(*args, **kwargs)
            frames = frames.clone()
            frames[frame] = value
            return frames, result

        return run

    for frame, value in ((9, 0.5), (20, float("nan"))):
        monkeypatch.setattr(comparison, "simulate_streaming_inference", spoiled(frame, value))
        assert not compare_streaming_vs_offline(model, audio, session=session).equal


def test_predictions_of_masked_frames_are_analyzed(model: Pretraining) -> None:
    audio = load_audio(SPEECH[1], 16000)
    found, shown = analyze_predictions(model, audio, "a")
    assert found["hidden_frames"] == int(shown.selected.sum()) > 0
    assert 0 <= found["accuracy"] <= 1 and found["predicted_entropy"] >= 0
    counts = list(found["histogram"].values())
    assert sum(counts) == found["hidden_frames"] and counts == sorted(counts, reverse=True)
    assert list(code_counts(model, shown)["predicted"].nonzero()[0]) == sorted(found["histogram"])
    assert analyze_predictions(model, audio, "a")[0] == found


def test_tables_fit_80_columns_and_the_verdict_names_the_frame() -> None:
    figures = dict.fromkeys(StreamResult.__dataclass_fields__, 1234.5678)
    plain = {**figures, "file": "talks/a.wav", "num_frames": 31234, "windowed": False, "listener_mean_ms": None}
    analysis = {
        "hidden_frames": 9999,
        "accuracy": None,
        "nats": 12.3456,
        "predicted_entropy": 3.21,
        "codes_predicted": 9,
    }
    analysis |= {"histogram": {8191: 12, 7: 3}, "accuracy_by_second": dict.fromkeys(range(30), 0.25)}
    assert len(streamed_tables([plain])) == 1 and not verdict([plain], 1e-5)
    equal = {"max_difference": 2e-7, "first_differing_frame": None, "per_frame": [2e-7] * 9, "equal": True}
    equal["max_left_ms"] = None
    full = {**plain, "listener_mean_ms": 5.0, "comparison": equal, "analysis": analysis}
    out = StringIO()
    Terminal(file=out, width=80).print(*streamed_tables([full]))
    printed = out.getvalue()
    for text in ("talks/a.wav", "31234", "1234.6/1234.6/1234.6", "2.0e-07", "predictions", "8191 (0%)", "29s: 25%"):
        assert text in printed
    assert verdict([full], 1e-5) == ["streamed and offline frames are equal within 1e-05 (largest difference 2.0e-07)"]
    spoiled = {**equal, "max_difference": 0.5, "first_differing_frame": 7, "per_frame": [0.0] * 7 + [0.25, 0.5]}
    lines = verdict([full, {**full, "comparison": {**spoiled, "equal": False}}], 1e-5)
    assert lines == ["talks/a.wav: streamed and offline frames differ by 2.5e-01 at frame 7, at most by 5.0e-01"]


def test_audio_is_resampled_and_invalid_files_are_refused(tmp_path: Path) -> None:
    tone = np.sin(np.arange(44100) * 0.05).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], 1), 44100)
    assert load_audio(tmp_path / "stereo.wav", 16000).shape == (16000,)
    latin = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    os.rename(tmp_path / "stereo.wav", latin)
    assert load_audio(latin, 16000).shape == (16000,)
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    for name, message in (
        ("text", "cannot be read"),
        ("empty", r"is empty \(0 samples\)"),
        ("nowhere", "no audio file at"),
    ):
        with pytest.raises(UserError, match=message):
            load_audio(tmp_path / f"{name}.wav", 16000)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="contains no audio file"):
        find_audio([str(tmp_path / "folder")])


def test_an_unknown_device_is_reported(model: Pretraining) -> None:
    with pytest.raises(UserError, match="--device banana cannot be used"):
        on_device(model, "banana")


def test_live_input_takes_no_options_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--json", "s.json"], ["--compare-modes"], ["--analyze"], ["--realtime"], ["--plots", "p"]):
        assert main("stream", "--model_path", "nowhere.ckpt", "--audio_path", "-", *option) == 2
        assert f"{option[0]} needs files" in capsys.readouterr().err


def test_a_folder_without_readable_files_fails(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.wav").write_text("hello")
    assert main("stream", "--model_path", checkpoint, "--audio_path", tmp_path, "--compare_modes") == 2
    assert "none of the 2 files could be read" in capsys.readouterr().err


def test_plots_of_files_with_equal_names_are_numbered() -> None:
    files = [Path("x/1.wav"), Path("y/1.wav"), Path("y/2.wav")]
    assert list(load("stream").plot_names(files).values()) == ["1_1", "2_1", "2"]


def test_a_missing_microphone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class PortAudioError(Exception):
        pass

    def refuse(**_: Any) -> None:
        raise PortAudioError("no default input device")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=refuse, PortAudioError=PortAudioError))
    with pytest.raises(UserError, match="cannot be read: no default input device"):
        next(load("stream").microphone(0.1, 16000))


def test_microphone_samples_are_read_and_overruns_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stream:
        def __init__(self, **settings: Any) -> None:
            assert settings == {"samplerate": 16000, "channels": 1, "dtype": "float32"}
            self.reads = 0

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, count: int) -> tuple[np.ndarray, bool]:
            self.reads += 1
            return np.full((count, 1), self.reads / 10, np.float32), self.reads == 2

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Stream, PortAudioError=OSError))
    pieces, reported = load("stream").microphone(0.1, 16000), []
    for value in (0.1, 0.2, 0.3):
        torch.testing.assert_close(next(pieces), torch.full((1600,), value))
        reported.append("input overrun" in capsys.readouterr().err)
    assert reported == [False, True, False]


def test_an_exported_context_is_compared_with_the_same_context(monkeypatch: pytest.MonkeyPatch) -> None:
    module, loaded = load("stream"), []
    metadata = {"latency": {"latency_mean_ms": 1.0, "latency_worst_ms": 2.0}, "context": "lookahead320"}
    monkeypatch.setattr(module, "OnnxSession", lambda *_: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(module, "load_model", lambda *arguments: loaded.append(arguments))
    words = ["--model_path", "m.onnx", "--audio_path", "a.wav", "--reference", "m.ckpt"]
    module.load(module.parse(words))
    assert loaded == [("m.ckpt", "lookahead320")]


def command(*words: Any, **kwargs: Any) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(
        [sys.executable, "scripts/stream.py", *map(str, words)], cwd=ROOT, capture_output=True, check=False, **kwargs
    )


def test_files_are_decoded_as_in_training() -> None:
    read = load_audio(SPEECH[0], 16000)
    assert torch.equal(read, torch.from_numpy(load_mono(Recording.from_file(SPEECH[0]).to_cut())))


def test_the_command_streams_compares_analyzes_and_skips_bad_files(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for path in SPEECH:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.wav").write_text("hello")
    words = ("--audio_path", folder, "--compare_modes", "--analyze", "--pictures", tmp_path / "plots")
    assert main("stream", "--model_path", checkpoint, *words, "--json", tmp_path / "s.json") == 0
    printed = capsys.readouterr()
    assert "1 of 3 files could not be read" in printed.err and "bad.wav" in printed.err
    records = json.loads((tmp_path / "s.json").read_text())
    assert [Path(r["file"]).name for r in records] == [path.name for path in SPEECH]
    assert all(r["comparison"]["max_difference"] < 1e-5 and r["analysis"]["hidden_frames"] > 0 for r in records)
    assert len(list((tmp_path / "plots").glob("*.png"))) == 6
    assert "Predictions of masked frames" in printed.out and "frames are equal within 1e-05" in printed.out
    words = ("--audio_path", SPEECH[0], "--compare_modes", "--tolerance", "1e-12")
    assert main("stream", "--model_path", checkpoint, *words) == 1
    assert "streamed and offline frames differ by" in capsys.readouterr().err


@pytest.mark.long
def test_standard_input_streams_and_user_errors_are_reported(checkpoint: Path) -> None:
    samples = (3000 * np.sin(np.arange(16000) * 0.05)).astype("<i2").tobytes()
    done = command("--model_path", checkpoint, "--audio_path", "-", input=samples + b"x")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1].split() == ["1.00", "s", "of", "audio", "25", "frames", "end"]
    wrong = command("--model_path", checkpoint, "--audio_path", "nowhere.wav")
    assert wrong.returncode == 2 and b"no audio file at nowhere.wav" in wrong.stderr and b"Trace" not in wrong.stderr
