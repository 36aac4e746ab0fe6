from __future__ import annotations

import gzip
import json
import logging

import pytest
from corpus import make_cut, tone, write_manifest

from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts
from streamnest.errors import UserError


@pytest.fixture
def cuts(tmp_path):
    return [make_cut(tmp_path, f"c{i}", tone(1 + i / 10, i), speaker=f"s{i % 3}") for i in range(10)]


def test_paths_are_relative_to_the_manifest(tmp_path, cuts, monkeypatch):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    monkeypatch.chdir("/")
    loaded, report = load_cuts(path)
    assert [len(load_mono(cut)) for cut in loaded] == [16000 + 1600 * i for i in range(10)]
    assert report.num_cuts == 10 and report.speakers == {"s0", "s1", "s2"}
    assert report.seconds == pytest.approx(14.5) and not report.counts
    assert "10 cuts, 3 speakers" in str(report)


def test_a_gzipped_manifest_is_read(tmp_path, cuts):
    plain = write_manifest(tmp_path / "cuts.jsonl", cuts)
    packed = tmp_path / "cuts.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [cut.id for cut in load_cuts(packed)[0]] == [cut.id for cut in cuts]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"id": "cut', "broken line"),
        ("[1, 2]", "broken line"),
        ('{"audio_filepath": "a.wav", "duration": 1.0}', "broken line"),
        ('{"id": "x", "start": 0, "duration": 1, "channel": 0, "supervisions": [], "type": "MonoCut"}', "no audio"),
    ],
)
def test_a_broken_line_is_skipped_with_its_file_and_number(tmp_path, cuts, caplog, line, cause):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts, (line,))
    with caplog.at_level(logging.WARNING):
        loaded, report = load_cuts(path)
    assert len(loaded) == 10 and report.counts == {cause: 1} and report.bad == 1
    assert f"{path}:1: {cause}" in caplog.text


def test_a_missing_file_is_skipped_unless_files_are_not_checked(tmp_path, cuts, caplog):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    (tmp_path / "c3.wav").unlink()
    loaded, report = load_cuts(path)
    assert [cut.id for cut in loaded] == [f"c{i}" for i in range(10) if i != 3]
    assert report.counts == {"missing file": 1} and f"{path}:4: missing file" in caplog.text
    assert len(load_cuts(path, check_files=False)[0]) == 10


def test_too_many_bad_lines_are_refused_with_the_first(tmp_path, cuts):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts, ("{", "{"))
    with pytest.raises(UserError, match=r"2 of 12 lines.*first error: line 1: broken line"):
        load_cuts(path)
    assert len(load_cuts(path, max_bad_share=0.2)[0]) == 10


def test_missing_empty_and_damaged_manifests_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        load_cuts(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="is empty"):
        load_cuts(tmp_path / "empty.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="cannot be read"):
        load_cuts(tmp_path / "cut.jsonl.gz")


def test_a_manifest_of_only_short_cuts_is_refused(tmp_path, cuts):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    loaded, report = load_cuts(path, min_duration=1.45)
    assert [cut.id for cut in loaded] == ["c5", "c6", "c7", "c8", "c9"] and report.counts == {"too short": 5}
    with pytest.raises(UserError, match=r"no usable cut .*10 too short"):
        load_cuts(path, min_duration=3.0)


def test_long_cuts_are_split_or_skipped(tmp_path):
    audio = tone(5.2)
    path = write_manifest(
        tmp_path / "cuts.jsonl", [make_cut(tmp_path, "long", audio), make_cut(tmp_path, "ok", tone(1))]
    )
    loaded, report = load_cuts(path, max_duration=2.5, min_duration=0.5)
    assert [cut.id for cut in loaded] == ["long-0", "long-1", "ok"]
    assert report.counts == {"split": 1, "too short": 1} and report.seconds == pytest.approx(6.0)
    assert (load_mono(loaded[1]) == audio[40000:80000]).all()
    loaded, report = load_cuts(path, max_duration=2.5, on_long="skip")
    assert [cut.id for cut in loaded] == ["ok"] and report.counts == {"too long": 1}


def test_other_sampling_rates_are_resampled(tmp_path):
    path = write_manifest(tmp_path / "cuts.jsonl", [make_cut(tmp_path, "a", tone(1.5, rate=8000), rate=8000)])
    (cut,), report = load_cuts(path)
    assert cut.sampling_rate == 16000 and len(load_mono(cut)) == 24000 and report.counts == {"resampled": 1}
    assert "1 cut, speakers unknown" in str(report)


def test_impossible_limits_are_refused(tmp_path, cuts):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    for limits in ({"min_duration": 3, "max_duration": 2}, {"min_duration": 0}, {"on_long": "crop"}):
        with pytest.raises(UserError, match=r"need 0 < min_duration|choose split or skip"):
            load_cuts(path, **limits)


def test_reports_add_up(tmp_path, cuts):
    path = write_manifest(tmp_path / "cuts.jsonl", cuts)
    one, two = load_cuts(path, min_duration=1.45)[1], load_cuts(path)[1]
    both = one + two
    assert both.num_cuts == 15 and both.counts == {"too short": 5} and len(both.speakers) == 3
    assert json.dumps(both.hours)
