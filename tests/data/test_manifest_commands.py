"""Shell commands in data files are never run unless they are allowed."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import pytest
from corpus import data_module, make_cut, tone, write_manifest

from streamnest.data.audio import load_mono
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import AugmentConfig, ReverbConfig
from streamnest.data.conversations.rttm import load_excerpts
from streamnest.data.manifest import load_cuts
from streamnest.data.shards.index import cuts_name, tar_name
from streamnest.data.shards.indexing import index_folder
from streamnest.errors import UserError


@pytest.fixture
def row(tmp_path):
    """The object in a line of a manifest."""
    cut = make_cut(tmp_path, "a", tone(1.0))
    return json.loads(write_manifest(tmp_path / "plain.jsonl", [cut]).read_text())


def all_augmentation() -> Augmentation:
    return Augmentation(AugmentConfig(prob=1.0, noise_ratio=1.0, reverb=ReverbConfig(prob=1.0)))


def sources(folder: Path) -> dict[str, dict]:
    """Returns sources that Lhotse passes to the shell; each creates a file `ran` if it is run."""
    touch = f"touch {folder}/ran"
    found = {
        "command": ("command", f"{touch}; cat {folder}/a.wav"),
        "pipe": ("url", f"pipe:{touch}; cat {folder}/a.wav"),
        "capitals": ("url", f" Pipe:{touch}"),
        "file": ("file", f"pipe:{touch}"),
        "converter": ("file", f"{folder}/x;touch${{IFS}}{folder}/ran;.sph"),
    }
    return {name: {"type": kind, "channels": [0], "source": source} for name, (kind, source) in found.items()}


def places(row: dict, source: dict) -> dict[str, dict]:
    """Returns lines with a source in every position from which Lhotse may load it."""
    bad = {**row["recording"], "sources": [source]}
    track = {"cut": {k: v for k, v in row.items() if k != "type"}, "type": "MonoCut", "offset": 0}
    hidden = {**track, "cut": {**track["cut"], "recording": bad}}
    room = {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": bad}}
    return {
        "cut": {**row, "recording": bad},
        "second source": {**row, "recording": {**row["recording"], "sources": [*row["recording"]["sources"], source]}},
        "custom": {**row, "custom": {"target": bad}},
        "room": {**row, "recording": {**row["recording"], "transforms": [room]}},
        "track": {"id": "m", "type": "MixedCut", "tracks": [track, hidden]},
        "reference": {"id": "m", "type": "MixedCut", "tracks": [track], "snr_reference": hidden},
    }


@pytest.mark.parametrize("name", ["command", "pipe", "capitals", "file", "converter"])
def test_commands_are_refused_with_file_and_line(tmp_path, row, name, monkeypatch):
    # In the folder of the manifest, its paths are not prefixed.
    monkeypatch.chdir(tmp_path)
    for line in places(row, sources(tmp_path)[name]).values():
        Path("m.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(line) + "\n")
        with pytest.raises(UserError, match=r"m\.jsonl:2: .*command.*data\.allow_commands=true"):
            [load_mono(cut) for cut in load_cuts("m.jsonl", check_files=False, max_bad_share=1)[0]]
    assert not Path("ran").exists()


def test_features_from_a_pipe_are_refused(tmp_path, row):
    row["features"] = {"storage_type": "lilcom_url", "storage_path": "pipe:touch ran"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="command"):
        load_cuts(tmp_path / "m.jsonl")


def test_every_part_of_the_data_refuses_commands(tmp_path, row):
    good = tmp_path / "plain.jsonl"
    (tmp_path / "m.jsonl").write_text(json.dumps(places(row, sources(tmp_path)["command"])["cut"]))
    for part in ("train_manifest", "val_manifest", "noise_manifest", "rir_manifest"):
        parts = {"train_manifest": good, part: tmp_path / "m.jsonl"}
        data = data_module(**{name: str(path) for name, path in parts.items()}, augment=all_augmentation())
        with pytest.raises(UserError, match=r"m\.jsonl:1"):
            data.setup()
    with pytest.raises(UserError, match=r"m\.jsonl:1"):
        load_excerpts(tmp_path / "m.jsonl")
    assert not (tmp_path / "ran").exists()


def test_allowed_commands_are_run(tmp_path, row):
    source = {**sources(tmp_path)["command"]}
    (tmp_path / "m.jsonl").write_text(json.dumps(places(row, source)["cut"]))
    data = data_module(str(tmp_path / "m.jsonl"), num_batches=1, allow_commands=True)
    data.setup()
    assert len(next(iter(data.train_dataloader())).ids) == 1 and (tmp_path / "ran").exists()


def test_shards_of_other_origin_may_not_name_commands(tmp_path, row):
    line = places(row, sources(tmp_path)["command"])["custom"]
    (tmp_path / cuts_name(0)).write_bytes(gzip.compress(json.dumps(line).encode()))
    (tmp_path / tar_name(0)).touch()
    with pytest.raises(UserError, match=r"jsonl\.gz:1: names a command"):
        index_folder(tmp_path)


def test_text_that_looks_like_a_command_is_kept(tmp_path, row):
    row["custom"] = {"type": "command", "word": "stop", "note": "pipe: organ"}
    row["supervisions"] = [
        {"id": "a", "recording_id": "a", "start": 0, "duration": 1, "text": "pipe:organ", "speaker": "command"}
    ]
    quiet = copy.deepcopy(row)
    (tmp_path / "m.jsonl").write_text(json.dumps(quiet))
    assert load_cuts(tmp_path / "m.jsonl")[0][0].supervisions[0].text == "pipe:organ"
