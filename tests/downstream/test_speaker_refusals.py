"""Refused settings, references and outputs of diarization and speaker tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from inprocess import load

from streamnest.build import build_model
from streamnest.config.limits import refuse_out_of_range
from streamnest.config.tasks import DiarizationConfig
from streamnest.data.config import ConversationConfig
from streamnest.data.conversations.rttm import load_excerpts, read_rttm, turns_of, write_rttm
from streamnest.data.conversations.simulation import ConversationSimulator, Turn
from streamnest.errors import UserError

STORED = Path(__file__).parents[1] / "fixtures/stored/diarization.ckpt"


@pytest.fixture
def talk(tmp_path: Path, speech_like: Callable[..., torch.Tensor]) -> Path:
    path = tmp_path / "talk.wav"
    soundfile.write(path, speech_like(1, 16000)[0].numpy(), 16000)
    return path


def diarize(*words: Any) -> int:
    return int(load("diarize").main([str(STORED), *map(str, words)]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("task=speaker", "task.trials=1"), r"task\.trials=1.*at least 2"),
        (("task=diarization", "task.conversations.seconds=0.5"), r"seconds=0\.5.*at least 1 and at most 3600"),
        (("task=diarization", "task.conversations.seconds=1e10"), r"at least 1 and at most 3600"),
    ],
)
def test_numbers_out_of_range_are_refused(run_config: Any, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        refuse_out_of_range(run_config(*words))


def test_so_many_speakers_need_an_order_of_arrival(run_config: Any) -> None:
    with pytest.raises(UserError, match=r"task\.max_speakers=9: at most 8 with task\.order=pit.*task\.order=arrival"):
        build_model(run_config("task=diarization", "task.max_speakers=9"))
    for words in (("task.max_speakers=8",), ("task.max_speakers=12", "task.order=arrival")):
        model: Any = build_model(run_config("task=diarization", *words))
        assert model.head.out.out_features == model.settings.max_speakers > DiarizationConfig.max_speakers


@pytest.mark.parametrize("pause", [(20.0, 30.0), (0.0, 15.0)])
def test_pauses_as_long_as_a_conversation_are_refused(pause: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"task\.conversations\.pause=\[.*below task\.conversations\.seconds=15"):
        ConversationSimulator(ConversationConfig(seconds=15.0, pause=pause))
    ConversationSimulator(ConversationConfig(seconds=15.0, pause=(0.0, 14.9)))


def test_an_empty_reference_is_a_recording_without_speech(tmp_path: Path) -> None:
    write_rttm(tmp_path / "a.rttm", {"talk": []})
    assert turns_of(tmp_path / "a.rttm", "talk", of_one=True) == []
    with pytest.raises(UserError, match="has no recording, but not talk"):
        turns_of(tmp_path / "a.rttm", "talk", of_one=False)


def test_two_recordings_with_one_reference_are_refused(tmp_path: Path, talk: Path) -> None:
    write_rttm(tmp_path / "talk.rttm", {"talk": [Turn("a", 0, 1)]})
    assert [cut.id for cut in load_excerpts(tmp_path)] == ["talk"]
    talk.with_suffix(".flac").write_bytes(b"")
    with pytest.raises(UserError, match=r"two audio files are named talk, as talk\.wav"):
        load_excerpts(tmp_path)


def test_turns_are_written_to_a_new_folder(tmp_path: Path) -> None:
    turns = {"m": [Turn("a", 0.0, 1.5)]}
    write_rttm(tmp_path / "new/folder/m.rttm", turns)
    assert read_rttm(tmp_path / "new/folder/m.rttm") == turns
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"m\.rttm cannot be written"):
        write_rttm(tmp_path / "file/m.rttm", turns)


def test_the_command_says_why_there_is_no_error_rate(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyannote.metrics")
    write_rttm(talk.with_suffix(".rttm"), {"talk": [Turn("a", 0.2, 0.5)]})
    assert diarize(talk, "--reference", talk.with_suffix(".rttm")) == 0
    assert "no DER: the references have no speech outside the collar of 0.25 s" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["diarize", "transcribe", "stream"])
def test_a_piece_longer_than_an_hour_is_refused(command: str, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load(command).main([str(STORED), str(talk), "--chunk-size", "1e300"])
    assert stopped.value.code == 2 and "at most 3600" in capsys.readouterr().err
