"""Exported models with a head give the results of their checkpoints."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from inprocess import main
from recognizers import recognizer, stepped

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from streamnest.build import build_model
from streamnest.checkpoint.loading import write_checkpoint
from streamnest.downstream.exported import ExportedDiarizer, ExportedRecognizer
from streamnest.errors import UserError
from streamnest.serving.engine import Engine
from streamnest.streaming.adaptive import AdaptiveSettings
from streamnest.streaming.export import export_step
from streamnest.streaming.onnx_session import OnnxSession

SMALL = ("size.num_layers=1", "encoder.left_context_ms=480")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def talk(speech_like, tmp_path):
    path = tmp_path / "a[b] talk.wav"
    soundfile.write(path, speech_like(1, 40000)[0].numpy(), 16000, subtype="FLOAT")
    return path


def test_an_exported_recognizer_gives_the_text_of_its_checkpoint(run_config, tmp_path, talk, capsys, monkeypatch):
    model, out = recognizer(run_config("task=ctc", "encoder=lookahead80", *SMALL)), tmp_path / "out.onnx"
    write_checkpoint(model, tmp_path / "m.ckpt")
    assert main("export", tmp_path / "m.ckpt", out, "--audio_path", talk) == 0
    capsys.readouterr()
    assert main("transcribe", tmp_path / "m.ckpt", "--stream", talk) == 0
    expected = capsys.readouterr().out
    assert len(set(expected.split("\t")[1])) > 4
    for words in ([out, talk], [out, "--stream", talk]):
        assert main("transcribe", *words) == 0
        assert capsys.readouterr().out == expected
    assert main("transcribe", out, "--beam", "1", talk) == 0
    assert main("stream", out, talk) == 0
    shown = capsys.readouterr().out
    assert "frames" in shown and expected in shown
    # The exporter of PyTorch records the source line of each node.
    assert str(ROOT).encode() not in out.read_bytes() and b"site-packages" not in out.read_bytes()
    assert main("stream", "--audio_path", talk, "--model_path", out, "--json", tmp_path / "s.json") == 0
    found = json.loads((tmp_path / "s.json").read_text())[0]
    assert found["text"] == expected.split("\t")[1].rstrip("\n") and found["num_frames"] > 0
    audio, _ = soundfile.read(talk, dtype="float32")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((audio * 32768).astype("<i2").tobytes())))
    capsys.readouterr()
    assert main("stream", out, "-") == 0
    assert len(capsys.readouterr().out.splitlines()[-1]) > 4
    served = Engine(ExportedRecognizer(OnnxSession(out)))
    capsys.readouterr()
    assert main("transcribe", out, "--stream", talk, "--adaptive", "100ms") == 2
    assert "an exported model has one context" in capsys.readouterr().err
    with pytest.raises(UserError, match="an exported model has one context"):
        Engine(ExportedRecognizer(OnnxSession(out)), adaptive=AdaptiveSettings(100, "load"))
    assert results(served, audio) == {"text": expected.split("\t")[1].rstrip("\n")}
    assert main("diarize", out, talk) == 2
    assert "task=diarization" in capsys.readouterr().err


def results(engine, audio):
    """Returns the final result of a server for audio."""
    number = engine.open()
    engine.push(number, audio)
    engine.end(number)
    return stepped(engine)[-1].fields


def diarizer(run_config, *overrides):
    torch.manual_seed(0)
    words = ("task=diarization", "task.conversations.speakers=[1,2]", "task.max_speakers=2", *overrides, *SMALL)
    model = build_model(run_config(*words)).eval()
    model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return model


@torch.no_grad()
def test_a_head_without_memory_gives_the_same_activity(run_config):
    model = diarizer(run_config, "task.head=linear")
    encoded, head = torch.randn(2, 5, model.encoder.d_model), model.exported_head()
    assert torch.equal(head(encoded, None, None)[0], model.probabilities(encoded)[0]) and head.memory_size == 0


def test_an_exported_diarizer_gives_the_activity_of_its_checkpoint(run_config, tmp_path, talk, capsys):
    # Its streams begin with frames before the first target span.
    model = diarizer(run_config, "encoder=lookahead80", "encoder.style=regular")
    with torch.no_grad():
        model.head.out.weight *= 20
    write_checkpoint(model, tmp_path / "m.ckpt")
    export_step(model, tmp_path / "out.onnx")
    audio = torch.from_numpy(soundfile.read(talk, dtype="float32")[0])
    encoded, _ = model(audio[None], torch.tensor([len(audio)]))
    exported = ExportedDiarizer(OnnxSession(tmp_path / "out.onnx"))
    torch.testing.assert_close(exported.frames(audio), model.probabilities(encoded)[0][0], rtol=0, atol=1e-3)
    shown = []
    for path in ("m.ckpt", "out.onnx"):
        assert main("diarize", tmp_path / path, talk) == 0
        shown.append(capsys.readouterr().out)
        assert main("diarize", tmp_path / path, talk, "--threshold", "0.999999") == 0
        assert "0 speakers" in capsys.readouterr().out
    assert shown[0] == shown[1] and len(shown[0].splitlines()) > 1
    turns = [results(Engine(one), audio.numpy())["turns"] for one in (model, exported)]
    assert turns[0] == turns[1] and len(turns[0]) == len(shown[0].splitlines()) - 1


def test_exports_without_the_required_head_are_refused():
    session = OnnxSession.__new__(OnnxSession)
    session.path = "m.onnx"
    for task, problem in {
        "rnnt": "only the encoder of an RNN-T model",
        "pretrain": "export a checkpoint of task=ctc",
    }.items():
        session.metadata = {"task": task, "head": None}
        with pytest.raises(UserError, match=problem):
            ExportedRecognizer(session)


@pytest.mark.parametrize("entry", ["labels", "size", "output", "kind"])
def test_invalid_metadata_of_a_head_is_refused(entry):
    head = {"kind": "ctc", "output": "log_probs", "size": 3, "labels": {"kind": "char", "symbols": ["a", "b"]}}
    session = OnnxSession.__new__(OnnxSession)
    session.metadata, session.path, session.sample_rate = {"head": head, "task": "ctc"}, "m.onnx", 16000
    outputs = [SimpleNamespace(name="log_probs", shape=[1, 2, 3])]
    session._runtime = SimpleNamespace(get_outputs=lambda: outputs)
    assert ExportedRecognizer(session).tokenizer.size == 3
    for wrong in (None, 7, "x", [], -1):
        session.metadata = {"head": {**head, entry: wrong}, "task": "ctc"}
        with pytest.raises(UserError):
            ExportedRecognizer(session)
