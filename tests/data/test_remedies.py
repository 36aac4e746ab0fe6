"""Errors for paths that are not data suggest the right command."""

from __future__ import annotations

import json

import pytest
import soundfile
from corpus import make_cut, tone, write_manifest

from streamnest.data.sampling.sources import load_source
from streamnest.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Folder of audio, lists and manifests."""
    cut = make_cut(tmp_path, "a", tone(1.0))
    for name in ("audio/deep", "manifests", "kaldi", "shards", "librispeech"):
        (tmp_path / name).mkdir(parents=True)
    soundfile.write(tmp_path / "audio/deep/x y.flac", tone(1.0), 16000)
    write_manifest(tmp_path / "manifests/cuts_train.jsonl", [cut])
    (tmp_path / "kaldi/wav.scp").write_text("a a.wav\n")
    (tmp_path / "shards/recording.000000.tar").touch()
    (tmp_path / "nemo.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}\n' * 5)
    (tmp_path / "recordings.jsonl").write_text(json.dumps(cut.recording.to_dict()))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("nemo.json", "`streamnest prepare manifest --source {}/nemo.json"),
        ("audio", "`streamnest prepare folder --source {}/audio"),
        ("audio/deep/x y.flac", "`streamnest prepare folder --source {}/audio/deep"),
        ("kaldi", "`streamnest prepare kaldi --source {}/kaldi"),
        ("recordings.jsonl", "`streamnest prepare lhotse --source {}/recordings.jsonl"),
        ("shards", "`streamnest shard --index {}/shards"),
        ("manifests", "{}/manifests/cuts_train.jsonl"),
        ("manifests/cuts_trian.jsonl", "has cuts_train.jsonl"),
        ("librispeech/cuts_train.jsonl.gz", "`streamnest prepare librispeech --source FOLDER --out {}/librispeech"),
    ],
)
def test_other_data_is_refused_with_a_helpful_command(folder, path, suggestion):
    with pytest.raises(UserError) as error:
        load_source(str(folder / path))
    assert suggestion.format(folder) in str(error.value) and path in str(error.value)
