from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
import soundfile
from corpus import data_module
from layouts import audio, speech
from processes import run
from rich.console import Console

from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts
from streamnest.data.recipes import command, cuts, parallel_measuring
from streamnest.data.recipes.journal import Journal
from streamnest.data.recipes.measuring import measure
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.parallel_measuring import measure_files
from streamnest.data.recipes.piece import Piece
from streamnest.data.recipes.preparation import prepare, require_usable
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.data.recipes.splitting import assign_parts
from streamnest.errors import UserError


def script(*words):
    done = run("scripts/prepare.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def folder(tmp_path):
    layouts.folder(tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def decoded(monkeypatch):
    """Records the files that are decoded."""
    paths = []
    monkeypatch.setattr(parallel_measuring, "measure", lambda path, limits: paths.append(path) or measure(path, limits))
    return paths


@pytest.mark.slow
def test_the_command_prepares_a_folder_for_training(tmp_path, folder):
    (folder / "ann/broken.wav").write_bytes(b"RIFF")
    done = script("folder", "--source", folder, "--out", tmp_path / "out", "--speaker_level", 1, "--jobs", 2)
    assert "unreadable" in done.stdout and "broken.wav" in done.stdout
    assert f"train.py data=manifest data.train_manifest={tmp_path}/out/cuts_train.jsonl.gz" in done.stdout
    paths = {part: str(tmp_path / f"out/cuts_{part}.jsonl.gz") for part in ("train", "dev")}
    data = data_module(paths["train"], val_manifest=paths["dev"], batch_duration=10.0, num_buckets=2, num_batches=3)
    data.setup()
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    assert len(batches) >= 4 and all(batch.lengths.min() >= 24000 and not batch.skipped for batch in batches)
    assert len(data.speakers) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["musan"], "MUSAN is expected as"),
        (["musan", "--language", "en"], "--language is not an option of musan"),
        (["folder", "--part", "a/b"], "becomes part of a file name"),
        (["folder", "--min_seconds", "20"], "need 0 < min <= max / 2"),
        (["folder", "--dev_share", "1"], "dev_share=1.0"),
    ],
)
def test_user_errors_are_one_line_with_status_2(tmp_path, folder, capsys, monkeypatch, words, message):
    given = [*words, "--source", folder, "--out", tmp_path / "out", "--jobs", 1]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, given)])
    assert command.main() == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda path: path.write_bytes(b"RIFFnothing"), "unreadable"),
        (lambda path: path.write_bytes(b""), "unreadable"),
        (lambda path: path.write_bytes(path.read_bytes()[:30000]), "unreadable"),
        (lambda path: soundfile.write(path, np.zeros(16000), 16000), "constant"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_a_damaged_flac_file_is_dropped_with_its_cause(tmp_path, spoil, cause):
    path = audio(tmp_path / "a.flac", 3)
    spoil(path)
    assert measure(str(path)).cause == cause


def test_empty_not_finite_and_truncated_audio_is_reported(tmp_path):
    soundfile.write(tmp_path / "e.wav", np.zeros(0), 16000)
    assert measure(str(tmp_path / "e.wav")).cause == "empty"
    soundfile.write(tmp_path / "a.wav", np.full(1600, np.nan), 16000, subtype="FLOAT")
    assert measure(str(tmp_path / "a.wav")).cause == "not finite"
    path = audio(tmp_path / "b.mp3", 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert measure(str(path)).cause == "not as long as declared"


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_measurements_agree_with_lhotse(tmp_path, rate):
    stereo = np.stack([speech(3), speech(3, 5)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, rate)
    prepare("folder", RecipeOptions(tmp_path), tmp_path / "out", dev_share=0, relative=True)
    cut = load_cuts(tmp_path / "out/cuts_train.jsonl.gz")[0][0]
    assert len(load_mono(cut)) == pytest.approx(48000 * 16000 / rate, abs=1)


def test_the_level_is_that_of_the_audio(tmp_path):
    wave = 0.1 * np.sqrt(2) * np.sin(np.arange(16000) * 0.3)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    facts = measure(str(tmp_path / "a.wav"))
    assert facts.level_db == pytest.approx(-20, abs=0.05) and facts.duration == 1.0


def test_a_second_run_decodes_only_new_or_changed_files(tmp_path, folder, decoded):
    out = tmp_path / "out"
    first = prepare("folder", RecipeOptions(folder), out)
    assert len(decoded) == first.files == 9 and first.known == 0
    manifest = (out / "cuts_train.jsonl.gz").read_bytes()
    again = prepare("folder", RecipeOptions(folder), out)
    assert len(decoded) == 9 and again.known == 9 and (out / "cuts_train.jsonl.gz").read_bytes() == manifest
    audio(folder / "ann/0.wav", 4, 7)
    new = audio(folder / "ann/new.wav")
    prepare("folder", RecipeOptions(folder), out)
    assert sorted(decoded[9:]) == sorted([str(folder / "ann/0.wav"), str(new)])


def test_other_segment_limits_require_new_measurements(tmp_path, folder, decoded):
    prepare("folder", RecipeOptions(folder), tmp_path / "out")
    prepare("folder", RecipeOptions(folder), tmp_path / "out", limits=SegmentLimits(0.5, 2.0))
    assert len(decoded) == 18


def test_a_run_killed_while_writing_its_journal_continues(tmp_path, folder, decoded):
    prepare("folder", RecipeOptions(folder), tmp_path / "out")
    journal = tmp_path / "out/journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:4]) + lines[4][:50])
    report = prepare("folder", RecipeOptions(folder), tmp_path / "out")
    assert report.known == 4 and sum(part.cuts for part in report.parts.values()) == 9
    prepare("folder", RecipeOptions(folder), tmp_path / "out")
    assert len(decoded) == 9 + 5


def test_a_failed_run_keeps_earlier_manifests(tmp_path, folder, monkeypatch):
    out = tmp_path / "out"
    prepare("folder", RecipeOptions(folder), out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name.startswith("cuts")}

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cuts, "_cut", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", RecipeOptions(folder), out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name.startswith("cuts")} == before


def test_a_run_without_dev_removes_the_earlier_dev(tmp_path, folder):
    out = tmp_path / "out"
    prepare("folder", RecipeOptions(folder), out)
    mine = (out / "cuts_mine.jsonl.gz").write_bytes(b"")
    assert (out / "cuts_dev.jsonl.gz").exists() and mine == 0
    prepare("folder", RecipeOptions(folder), out, dev_share=0)
    assert sorted(path.name for path in out.glob("cuts*")) == ["cuts_mine.jsonl.gz", "cuts_train.jsonl.gz"]


def test_several_processes_give_the_same_result(tmp_path, folder):
    paths = sorted(str(path) for path in folder.rglob("*.*"))
    alone = measure_files(paths, Journal(tmp_path / "one", SegmentLimits(0.5, 2)), 1)
    together = measure_files(paths, Journal(tmp_path / "two", SegmentLimits(0.5, 2)), 2)
    assert alone == together and len(alone[0]) == 9


def test_the_report_counts_cuts_hours_speakers_and_causes(tmp_path, folder):
    (folder / "ann/x.m4a").write_bytes(b"x")
    prepare("folder", RecipeOptions(folder, speaker_level=1), tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["files"] == 9 and sum(part["cuts"] for part in report["parts"].values()) == 9
    assert sum(part["hours"] for part in report["parts"].values()) == pytest.approx(22.5 / 3600, abs=1e-3)
    assert sum(part["speakers"] for part in report["parts"].values()) == 3
    assert report["dropped"]["unsupported format"]["count"] == 1


def test_a_corpus_without_usable_audio_is_refused_with_causes(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").write_bytes(b"x")
    report = prepare("folder", RecipeOptions(tmp_path / "in"), tmp_path / "out")
    with pytest.raises(UserError, match="no usable audio: 1 unreadable"):
        require_usable(report, tmp_path / "in", tmp_path / "out")


def test_names_that_are_not_utf8_are_dropped_and_reported(tmp_path, folder):
    os.rename(audio(folder / "a.wav"), os.fsencode(folder) + b"/caf\xe9.wav")
    audio(folder / "café [red].wav")
    report = prepare("folder", RecipeOptions(folder), tmp_path / "out")
    assert report.causes == {"name is not UTF-8": 1} and report.files == 10
    assert all(Console(file=io.StringIO()).print(table) is None for table in report.tables())


def die(paths, limits):
    os._exit(1)


def test_a_crashed_worker_is_reported_with_its_files(tmp_path, monkeypatch):
    path = str(audio(tmp_path / "a.wav"))
    journal = Journal(tmp_path / "journal", None)
    monkeypatch.setattr(parallel_measuring, "_measure_all", die)
    with pytest.raises(UserError, match=r"a process crashed or ran out of memory while it decoded[\s\S]*a.wav"):
        measure_files([path], journal, 2)


def test_relative_paths_allow_moving_audio_and_manifests(tmp_path, folder):
    prepare("folder", RecipeOptions(folder), tmp_path / "in/manifests", relative=True)
    shutil.move(tmp_path / "in", tmp_path / "moved")
    loaded = load_cuts(tmp_path / "moved/manifests/cuts_train.jsonl.gz")[0]
    assert len(load_mono(loaded[0]))


def test_paths_are_absolute_by_default(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("folder", RecipeOptions(Path("in")), Path("out"))
    with gzip.open("out/cuts_train.jsonl.gz", "rt") as lines:
        source = json.loads(next(lines))["recording"]["sources"][0]["source"]
    assert os.path.isabs(source)


def pieces(count, speakers=True, **changes):
    return [
        Piece(f"{i}", Path(f"/a/{i}.wav"), speaker=f"s{i // 4}" if speakers else None, **changes) for i in range(count)
    ]


@pytest.mark.parametrize("speakers", [True, False])
def test_the_dev_share_counts_speakers_or_recordings(speakers):
    dealt = assign_parts(pieces(4000, speakers), 0.1)
    dev = [piece for piece in dealt if piece.part == "dev"]
    assert 0.07 < len(dev) / 4000 < 0.13
    if speakers:
        assert not {piece.speaker for piece in dev} & {piece.speaker for piece in dealt if piece.part == "train"}


def test_added_data_does_not_change_the_split():
    before = {piece.id: piece.part for piece in assign_parts(pieces(2000), 0.1)}
    after = {piece.id: piece.part for piece in assign_parts(pieces(4000), 0.1)}
    assert all(after[name] == part for name, part in before.items())


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_part_is_empty_with_two_speakers(share):
    assert {piece.part for piece in assign_parts(pieces(8), share)} == {"train", "dev"}


def test_given_parts_are_kept_and_share_0_holds_nothing_out():
    assert {piece.part for piece in assign_parts(pieces(9, part="test"), 0.5)} == {"test"}
    assert {piece.part for piece in assign_parts(pieces(9), 0.0)} == {"train"}
    with pytest.raises(UserError, match="dev_share"):
        assign_parts([], 1.0)
