"""A checkpoint on audio files: figures, comparison, analysis, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
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
from streamnest.data.audio import load_mono
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import StreamingSession
from streamnest.streaming import simulation as sim
from streamnest.streaming.analysis import analyze_predictions, code_counts
from streamnest.streaming.audio_sources import find_audio, load_audio
from streamnest.streaming.tables import streamed_tables

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


@pytest.mark.parametrize("chunk_size", [0.01, 0.32, 0.4567, 100.0])
def test_streaming_a_file_costs_figures_and_equals_offline(model: Pretraining, chunk_size: float) -> None:
    audio = load_audio(SPEECH[0], 16000)
    frames, result = sim.simulate_streaming_inference(model, audio, chunk_size)
    assert len(frames) == result.num_frames == -(-(len(audio) // 160) // 4)
    assert 0 < result.compute_p50_ms <= result.compute_p95_ms <= result.compute_p99_ms
    assert result.first_frame_audio_ms >= model.latency.latency_worst_ms or chunk_size > 1
    assert result.listener_mean_ms is None and not result.windowed
    assert sim.compare_streaming_vs_offline(model, audio, chunk_size).equal


def test_the_time_of_a_chunk_ends_when_its_device_has_finished(
    model: Pretraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(torch.cpu, "synchronize", lambda: waited.append(1))
    sim.simulate_streaming_inference(model, 0.1 * torch.randn(16000), 0.32)
    assert len(waited) == 4


@pytest.mark.parametrize("stem", ["aligned", "shifted"])
def test_with_pacing_a_listener_waits_at_least_the_algorithmic_latency(
    run_config: Callable[..., DictConfig], stem: str
) -> None:
    model = ready(run_config("encoder=lookahead40", f"encoder.subsampling_padding={stem}"))
    audio = load_audio(SPEECH[0], 16000)[:12800]
    _, result = sim.simulate_streaming_inference(model, audio, 0.02, realtime=True)
    assert result.listener_mean_ms is not None and result.listener_worst_ms is not None
    assert result.listener_worst_ms >= model.latency.latency_worst_ms
    assert result.listener_mean_ms >= model.latency.latency_mean_ms


def test_a_difference_is_found_with_the_frame_where_it_begins(
    model: Pretraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = load_audio(SPEECH[0], 16000)
    simulate = sim.simulate_streaming_inference

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        frames, result = simulate(*args, **kwargs)
        frames[7:] += 0.01
        return frames, result

    monkeypatch.setattr(sim, "simulate_streaming_inference", spoiled)
    found = sim.compare_streaming_vs_offline(model, audio)
    assert not found.equal and found.first_differing_frame == 7
    assert found.max_difference == pytest.approx(0.01, abs=1e-5) and len(found.per_frame) > 7


def test_past_the_cap_of_an_unlimited_context_frames_may_differ_and_before_it_not(
    model: Pretraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = load_audio(SPEECH[0], 16000)
    session = StreamingSession(model, max_left_ms=400)
    found = sim.compare_streaming_vs_offline(model, audio, session=session)
    assert session.cap_frames == 10 and found.first_differing_frame is not None and found.first_differing_frame >= 10
    assert found.equal
    simulate = sim.simulate_streaming_inference

    def spoiled(frame: int, value: float) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            frames, result = simulate(*args, **kwargs)
            frames = frames.clone()
            frames[frame] = value
            return frames, result

        return run

    for frame, value in ((9, 0.5), (20, float("nan"))):
        monkeypatch.setattr(sim, "simulate_streaming_inference", spoiled(frame, value))
        assert not sim.compare_streaming_vs_offline(model, audio, session=session).equal


def test_predictions_on_hidden_stretches_are_analysed(model: Pretraining) -> None:
    audio = load_audio(SPEECH[1], 16000)
    found, shown = analyze_predictions(model, audio, "a")
    assert found["hidden_frames"] == int(shown.selected.sum()) > 0
    assert 0 <= found["accuracy"] <= 1 and found["predicted_entropy"] >= 0
    counts = list(found["histogram"].values())
    assert sum(counts) == found["hidden_frames"] and counts == sorted(counts, reverse=True)
    assert list(code_counts(model, shown)["predicted"].nonzero()[0]) == sorted(found["histogram"])
    assert analyze_predictions(model, audio, "a")[0] == found


def test_what_was_streamed_is_told_in_tables_whatever_was_asked_for() -> None:
    figures = dict.fromkeys(sim.StreamResult.__dataclass_fields__, 1.0)
    plain = {**figures, "file": "a.wav", "num_frames": 3, "windowed": True, "listener_mean_ms": None}
    analysis = {"hidden_frames": 0, "accuracy": None, "nats": None, "predicted_entropy": None, "codes_predicted": 0}
    analysis |= {"histogram": {}, "accuracy_by_second": {}}
    assert [len(table.columns) for table in streamed_tables([plain])] == [7]
    full = {**plain, "listener_mean_ms": 5.0, "comparison": {"max_difference": None}, "analysis": analysis}
    tables = streamed_tables([full])
    assert [len(table.columns) for table in tables] == [9, 8]
    assert list(tables[0].columns[-1].cells) == ["frames missing, windowed"]


def test_other_rates_and_channels_are_read_and_what_is_no_audio_is_refused(tmp_path: Path) -> None:
    tone = np.sin(np.arange(44100) * 0.05).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], 1), 44100)
    assert load_audio(tmp_path / "stereo.wav", 16000).shape == (16000,)
    latin = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    os.rename(tmp_path / "stereo.wav", latin)
    assert load_audio(latin, 16000).shape == (16000,)
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    for name, message in (("text", "cannot be read"), ("empty", "holds no audio"), ("nowhere", "no audio file at")):
        with pytest.raises(UserError, match=message):
            load_audio(tmp_path / f"{name}.wav", 16000)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no audio file"):
        find_audio([str(tmp_path / "folder")])


def test_a_device_that_is_not_there_is_told(model: Pretraining) -> None:
    with pytest.raises(UserError, match="--device banana cannot be used"):
        on_device(model, "banana")


def test_what_is_heard_once_takes_no_options_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--json", "s.json"], ["--compare-modes"], ["--analyze"], ["--realtime"], ["--plots", "p"]):
        assert main("stream", "--model_path", "nowhere.ckpt", "--audio_path", "-", *option) == 2
        assert f"{option[0]} needs files" in capsys.readouterr().err


def test_where_no_file_can_be_read_nothing_is_reported_as_equal(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.wav").write_text("hello")
    assert main("stream", "--model_path", checkpoint, "--audio_path", tmp_path, "--compare_modes") == 2
    assert "none of the 2 files could be read" in capsys.readouterr().err


def test_pictures_of_files_with_one_name_do_not_overwrite_each_other() -> None:
    files = [Path("x/1.wav"), Path("y/1.wav"), Path("y/2.wav")]
    assert list(load("stream").plot_names(files).values()) == ["1_1", "2_1", "2"]


def test_a_microphone_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class PortAudioError(Exception):
        pass

    def refuse(**_: Any) -> None:
        raise PortAudioError("no default input device")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=refuse, PortAudioError=PortAudioError))
    with pytest.raises(UserError, match="cannot be read: no default input device"):
        next(load("stream").microphone(0.1, 16000))


def test_what_a_microphone_gives_is_heard_and_samples_it_lost_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stream:
        def __init__(self, **settings: Any) -> None:
            assert settings == {"samplerate": 16000, "channels": 1, "dtype": "float32"}
            self.given = 0

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, count: int) -> tuple[np.ndarray, bool]:
            self.given += 1
            return np.full((count, 1), self.given / 10, np.float32), self.given == 2

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Stream, PortAudioError=OSError))
    pieces, told = load("stream").microphone(0.1, 16000), []
    for value in (0.1, 0.2, 0.3):
        torch.testing.assert_close(next(pieces), torch.full((1600,), value))
        told.append("samples were dropped" in capsys.readouterr().err)
    assert told == [False, True, False]


def test_an_exported_context_is_held_against_the_same_context(monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = load("stream"), []
    metadata = {"latency": {"latency_mean_ms": 1.0, "latency_worst_ms": 2.0}, "context": "lookahead320"}
    monkeypatch.setattr(module, "OnnxSession", lambda *_: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(module, "load_model", lambda *words: asked.append(words))
    words = ["--model_path", "m.onnx", "--audio_path", "a.wav", "--reference", "m.ckpt"]
    module.load(module.parse(words))
    assert asked == [("m.ckpt", "lookahead320")]


def command(*words: Any, **kwargs: Any) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(
        [sys.executable, "scripts/stream.py", *map(str, words)], cwd=ROOT, capture_output=True, check=False, **kwargs
    )


def test_a_file_is_read_as_training_reads_it() -> None:
    read = load_audio(SPEECH[0], 16000)
    assert torch.equal(read, torch.from_numpy(load_mono(Recording.from_file(SPEECH[0]).to_cut())))


def test_the_command_streams_files_compares_analyses_and_skips_bad_ones(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for path in SPEECH:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.wav").write_text("hello")
    words = ("--audio_path", folder, "--compare_modes", "--analyze", "--pictures", tmp_path / "pictures")
    assert main("stream", "--model_path", checkpoint, *words, "--json", tmp_path / "s.json") == 0
    printed = capsys.readouterr()
    assert "1 of 3 files could not be read" in printed.err and "bad.wav" in printed.err
    records = json.loads((tmp_path / "s.json").read_text())
    assert [Path(r["file"]).name for r in records] == [path.name for path in SPEECH]
    assert all(r["comparison"]["max_difference"] < 1e-5 and r["analysis"]["hidden_frames"] > 0 for r in records)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 6
    assert "entropy of predictions" in printed.out and "right in each second" in printed.out
    words = ("--audio_path", SPEECH[0], "--compare_modes", "--tolerance", "1e-12")
    assert main("stream", "--model_path", checkpoint, *words) == 1
    assert "differ by more than" in capsys.readouterr().err


@pytest.mark.long
def test_raw_samples_stream_from_standard_input_and_mistakes_are_told(checkpoint: Path) -> None:
    samples = (3000 * np.sin(np.arange(16000) * 0.05)).astype("<i2").tobytes()
    done = command("--model_path", checkpoint, "--audio_path", "-", input=samples + b"x")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1].split() == ["1.00", "s", "of", "audio", "25", "frames", "end"]
    wrong = command("--model_path", checkpoint, "--audio_path", "nowhere.wav")
    assert wrong.returncode == 2 and b"no audio file at nowhere.wav" in wrong.stderr and b"Trace" not in wrong.stderr
