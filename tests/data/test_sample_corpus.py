from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "sample16k"
PARTS = ("train", "dev", "noise")


@pytest.fixture(scope="module")
def parts():
    return {part: load_cuts(FOLDER / f"cuts_{part}.jsonl", max_duration=30.0) for part in PARTS}


def test_the_sample_has_36_minutes_of_16_speakers(parts):
    reports = {part: report for part, (_, report) in parts.items()}
    assert not any(report.counts for report in reports.values())
    assert reports["train"].hours + reports["dev"].hours == pytest.approx(0.6, abs=0.005)
    assert reports["noise"].seconds == pytest.approx(157, abs=1)
    assert len(reports["train"].speakers) == 13 and len(reports["dev"].speakers) == 3
    assert not reports["train"].speakers & reports["dev"].speakers
    ids = [cut.id for cuts, _ in parts.values() for cut in cuts]
    assert len(set(ids)) == len(ids)


def test_files_decode_to_the_declared_length(parts):
    for cuts, _ in parts.values():
        for cut in cuts[::8]:
            audio = load_mono(cut)
            assert len(audio) == cut.num_samples and 1e-4 < audio.std() < 0.5


def test_every_source_has_its_license_file(parts):
    sources = {cut.custom["source"] for cuts, _ in parts.values() for cut in cuts}
    text = (FOLDER / "README.md").read_text()
    for source in sources:
        assert (FOLDER / "licenses" / f"{source}.txt").stat().st_size > 0
        assert source.split("-sounds-")[0] in text


def test_the_script_reproduces_the_manifests(tmp_path):
    for name in ("manifest.jsonl", "noise.jsonl", "speech", "noise"):
        (tmp_path / name).symlink_to(FOLDER / name)
    script = ROOT / "tools" / "make_sample_manifests.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    for part in PARTS:
        name = f"cuts_{part}.jsonl"
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()
