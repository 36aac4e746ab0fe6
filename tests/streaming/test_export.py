"""The exported graph computes the offline frames, and its metadata suffices to run it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import main
from models import ready
from omegaconf import DictConfig

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import export, exported_step
from streamnest.streaming import onnx_session as runtime
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.quantization import quantize_step

ROOT = Path(__file__).parents[2]
SPEECH = sorted((ROOT / "data/sample16k/speech").glob("asterisk_en*.ogg"))[0]
Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]
# Presets, factors, paddings and batch sizes each occur in some case.
CASES = [
    ("lookahead80 encoder.style=delayed", 4, "shifted", 1, "global"),
    pytest.param("lookahead80 encoder.style=regular", 8, "aligned", 2, "global", marks=pytest.mark.long),
    pytest.param("causal", 4, "aligned", 1, "global", marks=pytest.mark.long),
    ("causal frontend.kind=sherpa", 8, "shifted", 3, "online"),
    pytest.param("lookahead80", 4, "shifted", 1, "none", marks=pytest.mark.long),
    ("lookahead80", 8, "aligned", None, "online"),
    # Right context of less than a chunk: the first window begins before the stream.
    ("buffered encoder.right_context_ms=80", 4, "shifted", 2, "online"),
    pytest.param("limited3200", 4, "shifted", None, "global", marks=pytest.mark.long),
    pytest.param("limited3200", 8, "aligned", 2, "global", marks=pytest.mark.slow),
]


@torch.no_grad()
def offline(model: Pretraining, audio: torch.Tensor) -> torch.Tensor:
    encoded, frames = model(audio[None], torch.tensor([len(audio)]))
    return encoded[0, : int(frames)]


def stream(session: OnnxSession, rows: list[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Streams rows together in pieces; returns the frames of each."""
    numbers = [session.open() for _ in rows]
    frames: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
    for start in range(0, max(map(len, rows)), size):
        pieces = {n: row[start : start + size] for n, row in zip(numbers, rows) if start < len(row)}
        for number, found in session.push(pieces).items():
            frames[number].append(found)
    for number, found in session.flush(numbers).items():
        frames[number].append(found)
    return [torch.cat(frames[number]) for number in numbers]


@pytest.mark.parametrize(("preset", "factor", "padding", "batch", "normalize"), CASES)
def test_streams_of_the_graph_equal_offline_frames(
    run_config: Compose,
    speech_like: Audio,
    tmp_path: Path,
    preset: str,
    factor: int,
    padding: str,
    batch: int | None,
    normalize: str,
) -> None:
    overrides = (
        *f"encoder={preset}".split(),
        f"encoder.subsampling_factor={factor}",
        f"encoder.subsampling_padding={padding}",
    )
    model = ready(run_config(*overrides, f"encoder.normalize={normalize}"))
    metadata = export.export_step(model, tmp_path / "step.onnx", batch)
    assert metadata["batch"] == batch
    # Lengths with a full, a partial and a single last chunk.
    rows = [speech_like(1, n, n)[0] for n in (70_000, 12_800, 24_321, 11_900, 170, 159, 0)]
    rows[2][:8000] = 0.0  # digital silence: the logarithm amplifies small errors most
    for size in (1_000, 100_000):
        for row, found in zip(rows, stream(OnnxSession(tmp_path / "step.onnx"), rows, size)):
            expected = offline(model, row)
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    return ready(run_config("encoder=lookahead40", "encoder.subsampling_padding=shifted", "size.num_layers=1"))


def test_the_metadata_suffices_to_run_the_graph(model: Pretraining, speech_like: Audio, tmp_path: Path) -> None:
    """Runs the loop of docs/EXPORT.md with numpy and onnxruntime only."""
    import onnxruntime

    export.export_step(model, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    m = json.loads(session.get_modelmeta().custom_metadata_map["streamnest"])
    assert [x.name for x in session.get_inputs()] == ["audio", "end", *(entry["name"] for entry in m["state"])]
    assert [x.name for x in session.get_outputs()] == ["encoded", *(entry["output"] for entry in m["state"])]
    assert [x.shape for x in session.get_inputs()[2:]] == [entry["shape"] for entry in m["state"]]
    assert {entry["dtype"] for entry in m["state"]} == {"float32", "int64"}
    assert m["latency"]["latency_worst_ms"] == model.latency.latency_worst_ms
    assert m["latency"]["left_ms"] is None and m["left_unlimited"]
    assert m["first_samples"] == m["window_samples"] - m["initial_zeros"]
    assert m["config"]["encoder"]["subsampling_padding"] == "shifted"

    audio = speech_like(1, 20_000)[0].numpy()
    state = {e["name"]: np.full(e["shape"], e["initial"], e["dtype"]) for e in m["state"]}
    pending, frames = np.concatenate([np.zeros(m["initial_zeros"], np.float32), audio]), []
    while len(pending) >= m["window_samples"]:
        inputs = {"audio": pending[None, : m["window_samples"]], "end": np.array([m["open_end"]]), **state}
        encoded, *after = session.run(None, inputs)
        state = dict(zip(state, after))
        frames.append(encoded[0])
        pending = pending[m["chunk_samples"] :]
    expected = offline(model, torch.from_numpy(audio)).numpy()
    found = np.concatenate(frames)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=1e-4)
    assert len(expected) - len(found) <= 2 * m["chunk_frames"]


def test_invalid_pushes_are_refused_and_windows_reported(
    model: Pretraining, speech_like: Audio, tmp_path: Path
) -> None:
    export.export_step(model, tmp_path / "step.onnx", max_left_ms=400)
    session = OnnxSession(tmp_path / "step.onnx")
    number = session.open()
    session.push({number: speech_like(1, 4_000)[0]})
    assert not session.windowed(number)
    session.push({number: speech_like(1, 8_000)[0]})
    assert session.windowed(number)
    with pytest.raises(UserError, match="finite"):
        session.push({number: torch.tensor([float("nan")])})
    session.flush([number])
    with pytest.raises(UserError, match="not open"):
        session.push({number: torch.zeros(10)})


def test_a_paused_stream_keeps_no_memory_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {
        **{"sample_rate": 16000, "frame_ms": 40.0, "chunk_samples": 8, "first_samples": 8, "window_samples": 8},
        **{
            "d_model": 2,
            "chunk_frames": 1,
            "initial_zeros": 0,
            "stem": "aligned",
            "warmup_frames": 0,
            "batch": None,
            "open_end": 1 << 40,
        },
        "state": [{"name": "s", "output": "next_s", "shape": [None, 5], "dtype": "float32", "initial": 0}],
    }
    graph = SimpleNamespace(run=lambda _, inputs: [np.zeros((len(inputs["end"]), 1, 2)), inputs["s"] + 1])
    monkeypatch.setattr(runtime, "_open", lambda *_: (graph, metadata))
    session = OnnxSession("any.onnx")
    numbers = [session.open() for _ in range(3)]
    session.push({number: torch.zeros(8) for number in numbers})
    states = [session._streams[number].state["s"] for number in numbers]
    assert all(state.base is None and (state == 1).all() for state in states)
    # Frames before the stream take part of the cap of a buffered encoder, and are not counted.
    metadata |= {"left_frames": 10, "left_unlimited": True, "warmup_frames": 4}
    assert session.cap_frames == 6
    for emitted, windowed in ((10, False), (11, True)):
        session._streams[numbers[0]].emitted = emitted
        assert session.windowed(numbers[0]) == windowed


def test_offline_models_invalid_files_and_missing_packages_are_refused(
    run_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot stream"):
        export.export_step(ready(run_config("encoder=bidirectional")), tmp_path / "no.onnx")
    with pytest.raises(UserError, match="no exported model at"):
        OnnxSession(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="not an ONNX model"):
        OnnxSession(tmp_path / "text.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[export\]'"):
        OnnxSession(tmp_path / "text.onnx")


def test_int8_is_smaller_and_nearly_equal(run_config: Compose, speech_like: Audio, tmp_path: Path) -> None:
    model = ready(run_config("encoder=causal", "size.d_model=128"))
    source, target = tmp_path / "step.onnx", tmp_path / "step.int8.onnx"
    export.export_step(model, source, max_left_ms=1000)
    assert quantize_step(source, target) > 2 * 8
    assert OnnxSession(target).metadata == {**OnnxSession(source).metadata, "quantization": "int8 dynamic"}
    audio = speech_like(1, 30_000)[0][:14_000]  # within the cap
    found, expected = stream(OnnxSession(target), [audio], 4_000)[0], offline(model, audio)
    assert 1e-5 < float((found - expected).abs().max()) < 0.2
    assert target.stat().st_size < 0.75 * source.stat().st_size


@pytest.fixture
def checkpoint(model: Pretraining, tmp_path: Path) -> Path:
    stored: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(stored)
    torch.save(stored, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def test_the_file_names_the_context_that_was_exported(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=dynamic"))
    model.encoder.use_context("lookahead320")
    graph = exported_step.ExportedStep(model, 800)
    assert export.describe(model, graph, 1)["context"] == "lookahead320"
    plain = ready(run_config("encoder=causal"))
    assert export.describe(plain, exported_step.ExportedStep(plain, 800), 1)["context"] is None


def test_stream_runs_the_file_that_export_wrote(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, figures = tmp_path / "made/step.onnx", tmp_path / "figures.json"
    assert main("export", checkpoint, out, "--int8", "--audio_path", SPEECH, "--json", figures) == 0
    found = json.loads(figures.read_text())
    assert list(found) == ["PyTorch", str(out), str(out.with_suffix(".int8.onnx"))]
    assert found[str(out)]["max_difference"] < 1e-4 < found[str(out.with_suffix(".int8.onnx"))]["max_difference"]
    assert found[str(out)]["same_codes"] == 1.0
    assert all(0 < f["p50_ms"] <= f["p99_ms"] for f in found.values())

    words = ("--model_path", out, "--audio_path", SPEECH, "--compare_modes")
    assert main("stream", *words, "--reference", checkpoint, "--json", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())[0]["comparison"]["max_difference"] < 1e-4
    assert main("stream", *words) == 2
    assert "--reference CKPT" in capsys.readouterr().err
    samples = (3000 * np.sin(np.arange(16000) * 0.05)).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(samples)))
    assert main("stream", "--model_path", out, "--audio_path", "-") == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[4:] == ["26", "frames", "end"]


@pytest.mark.slow
def test_export_fails_for_differences_and_user_errors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("export", checkpoint, tmp_path / "step.onnx", "--audio_path", SPEECH, "--tolerance", "1e-12") == 1
    assert "differ by" in capsys.readouterr().err
    assert main("export", tmp_path / "nowhere.ckpt", tmp_path / "step.onnx") == 2
    assert main("export", checkpoint, tmp_path / "step.pt") == 2
