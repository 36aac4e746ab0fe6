"""Recordings that are too long for one forward pass, or for the left context of a stream."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch
from inprocess import load
from recognizers import recognizer

from streamnest.downstream import long_audio
from streamnest.downstream.asr import transcriber
from streamnest.downstream.long_audio import RecordingEncoder, note_on_past, note_on_streamed
from streamnest.encoder.context import Context
from streamnest.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch):
    """As if two seconds were long, and one all that a stream remembers."""
    monkeypatch.setattr(long_audio, "FULL_FORWARD_S", 2.0)
    monkeypatch.setattr(long_audio, "STREAM_PAST_S", 1.0)


def save(model, path):
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, path)


def test_only_long_recordings_are_streamed(run_config, speech_like, monkeypatch):
    model = recognizer(run_config("task=ctc", "encoder=causal")).double()
    audio = speech_like(1, 48000)[0].double()
    whole = model(audio[None], torch.tensor([48000]))[0][0]
    encode, calls = RecordingEncoder(model), []
    monkeypatch.setattr(model, "forward", lambda *given: calls.append(given) or (whole[None], torch.tensor([9])))
    assert torch.allclose(encode(audio, "x"), whole, atol=1e-9) and not calls
    assert len(encode(audio[:32000], "x")) == 9 and calls


def test_a_long_recording_without_streaming_is_refused(run_config, speech_like):
    encode = RecordingEncoder(recognizer(run_config("task=ctc", "encoder=bidirectional")))
    assert len(encode(speech_like(1, 32000)[0], "short.wav"))
    with pytest.raises(
        UserError, match=r"long\.wav is 3 s long, and the limit of a model .* is 2 s: split the file .*cannot stream"
    ):
        encode(speech_like(1, 48000)[0], "long.wav")


def test_notes_count_what_is_longer_and_limited_contexts_forget_nothing():
    causal, limited = (SimpleNamespace(encoder=SimpleNamespace(context=Context(left, 0))) for left in (None, 80))
    seconds = [0.5, 1.0, 1.5, 3.0]
    assert note_on_past(causal, seconds).startswith("2 of 4 files are longer than the 1 s of left context")
    assert note_on_past(causal, seconds[:2]) == note_on_past(limited, seconds) == ""
    assert note_on_streamed(causal, seconds, "utterances").startswith("1 of 4 utterances are longer than 2 s")
    assert "1 s of left context" in note_on_streamed(causal, seconds)
    assert "left context" not in note_on_streamed(limited, seconds) and not note_on_streamed(causal, seconds[:3])


@pytest.mark.parametrize(("seconds", "note"), [(0.9, ""), (1.5, "1 of 1 streams are longer than the 1 s of")])
def test_a_live_stream_reports_that_it_exceeded_the_left_context(
    run_config, speech_like, tmp_path, capsys, monkeypatch, seconds, note
):
    save(recognizer(run_config("task=ctc", "encoder=causal")), tmp_path / "last.ckpt")
    samples = (32767 * speech_like(1, round(16000 * seconds))[0]).short().numpy().tobytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(samples)))
    command = load("transcribe")
    assert command.run(command.parse([str(tmp_path / "last.ckpt"), "-"])) == 0
    printed = capsys.readouterr().err
    assert printed.startswith(note) and bool(printed) is bool(note)


@pytest.mark.parametrize(("option", "note"), [("--stream", "2 of 2 files are"), ("--beam=2", "1 of 2 files are")])
def test_the_command_reports_once_how_many_files_were_long(run_config, speech_like, tmp_path, capsys, option, note):
    save(recognizer(run_config("task=ctc", "encoder=causal")), tmp_path / "last.ckpt")
    for seconds in (2, 3):
        soundfile.write(tmp_path / f"{seconds}.wav", speech_like(1, 16000 * seconds)[0].numpy(), 16000)
    command = load("transcribe")
    assert command.run(command.parse([str(tmp_path / "last.ckpt"), str(tmp_path), option])) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(note) and printed.err.count("\n") == 1 and printed.out.count(".wav\t") == 2


def test_the_command_skips_files_that_are_too_long(run_config, speech_like, tmp_path, capsys):
    save(recognizer(run_config("task=ctc", "encoder=bidirectional")), tmp_path / "last.ckpt")
    for name, seconds in (("a", 3), ("b", 1)):
        soundfile.write(tmp_path / f"{name}.wav", speech_like(1, 16000 * seconds)[0].numpy(), 16000)
    command = load("transcribe")
    assert command.run(command.parse([str(tmp_path / "last.ckpt"), str(tmp_path)])) == 1
    printed = capsys.readouterr()
    assert "a.wav is 3 s long" in printed.err and printed.out.count("\t") == 1
    assert command.run(command.parse([str(tmp_path / "last.ckpt"), str(tmp_path / "a.wav")])) == 2


def test_decoding_in_parts_gives_the_same_text(run_config, speech_like, tmp_path, capsys, monkeypatch):
    save(recognizer(run_config("task=ctc", "encoder=causal")), tmp_path / "last.ckpt")
    soundfile.write(tmp_path / "a.wav", speech_like(1, 48000)[0].numpy(), 16000)
    command, printed = load("transcribe"), []
    for part in (4096, 3):
        monkeypatch.setattr(transcriber, "_PART", part)
        assert command.run(command.parse([str(tmp_path / "last.ckpt"), str(tmp_path / "a.wav")])) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and len(printed[0].split("\t")[1]) > 10


def test_error_rates_by_speaker_need_a_known_speaker():
    line = {"id": "x", "reference": "go on", "text": "go"}
    records = [{**line, "speaker_in_train": known} for known in (None, True)]
    found = load("transcribe").error_rates(records)
    assert found["wer_seen"] == 0.5 and "wer_unseen" not in found
