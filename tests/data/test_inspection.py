from __future__ import annotations

from functools import partial
from pathlib import Path

import inprocess
import numpy as np
import pytest
import torch
from corpus import make_cut, tone, write_manifest

from streamnest.build import build_model
from streamnest.data.inspection import fill, inspect, level_db
from streamnest.data.inspection_plots import plot_inspection
from streamnest.data.sampling.buckets import Buckets
from streamnest.errors import UserError


@pytest.fixture
def path(tmp_path):
    cuts = [make_cut(tmp_path, f"c{i}", tone(1 + i / 10, i), speaker=f"s{i % 3}") for i in range(20)]
    return write_manifest(tmp_path / "cuts.jsonl", cuts)


@pytest.fixture
def main():
    return partial(inprocess.main, "inspect")


def test_hours_speakers_durations_and_energy_are_those_of_the_audio(path):
    found = inspect([path], sample=7)
    assert found.report.seconds == pytest.approx(39) and len(found.durations) == 20
    assert found.speakers == pytest.approx({"s0": 13.3, "s1": 14.0, "s2": 11.7})
    assert found.sampled == 7 and found.levels == pytest.approx(np.full(7, -20), abs=0.2)


def test_broken_files_are_found_and_the_rest_is_measured(path):
    (path.parent / "c3.wav").write_bytes(b"x" * 100)
    (path.parent / "c4.wav").unlink()
    found = inspect([path], sample=100)
    assert [Path(name).name for name, _ in found.broken] == ["c3.wav"] and len(found.levels) == 18
    assert found.report.counts == {"missing file": 1}


def test_padding_is_that_of_the_batches():
    durations = np.random.default_rng(0).uniform(1, 20, 500)
    found = fill(durations, 60.0, 16, 10)
    buckets = Buckets(durations, 60.0, 16, 10)
    arranged = buckets.arrange(np.random.default_rng(0))
    batches = [durations[arranged.batch(i)] for i in range(len(buckets))]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert found.batches == len(batches) and found.padding == pytest.approx(1 - durations.sum() / padded)
    assert found.used == pytest.approx(padded / len(batches) / 60)


def test_more_buckets_pad_less_and_equal_durations_not_at_all():
    durations = np.random.default_rng(0).uniform(1, 20, 2000)
    assert fill(durations, 60.0, 64, 20).padding < fill(durations, 60.0, 64, 2).padding
    assert fill(np.full(64, 3.0), 60.0, 64, 4).padding == pytest.approx(0)


def test_silence_has_a_finite_level():
    assert level_db(np.zeros(100, np.float32)) == -100


def test_the_command_prints_tables_and_saves_a_plot(path, main, capsys, tmp_path):
    assert main(path, path, "--picture", tmp_path / "p/data.png", "--batch_duration", 20, "--num_buckets", 3) == 0
    text = capsys.readouterr().out
    assert "0.02" in text and "40" in text and "0 of 40 decoded" in text and "batch_duration=20 num_buckets=3" in text
    assert (tmp_path / "p/data.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_fails_for_broken_audio_and_for_no_audio(path, main, capsys):
    (path.parent / "c3.wav").write_bytes(b"x" * 100)
    assert main(path) == 1 and "c3.wav: unreadable" in capsys.readouterr().out
    assert main(path.parent / "none.jsonl") == 2 and "no such manifest" in capsys.readouterr().err


def test_audio_without_speakers_or_decoded_sample_is_plotted(path):
    found = inspect([path], sample=0)
    speakers = plot_inspection(found, "t").axes[2]
    assert [tick for tick in speakers.get_xticks() if 0.4 < tick < 3.6] == [1, 2, 3]
    found.speakers.clear()
    panels = plot_inspection(found, "t").axes
    assert len(panels) == 4 and all(axes.get_title("left") for axes in panels)
    with pytest.raises(UserError, match="sample=-1"):
        inspect([path], sample=-1)


def test_a_checkpoint_is_described_with_its_audio_and_validation(run_config, main, tmp_path, capsys):
    model = build_model(run_config("trainer.max_audio_hours=3"))
    model.seconds_seen.fill_(5400.0)
    checkpoint = {"state_dict": model.state_dict(), "global_step": 7}
    model.on_save_checkpoint(checkpoint)
    records = [{"step": 7.0, "hours": 1.5, "val/loss": 4.25}]
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({**checkpoint, "callbacks": {"ValHistory": {"records": records}}}, last)
    assert main(tmp_path / "run") == 0
    text = capsys.readouterr().out
    assert "1.50 h of 3 h in this run" in text and "4.250 after 1.50 h" in text
    assert main(last, tmp_path / "cuts.jsonl") == 2
    assert "give either manifests, or checkpoints" in capsys.readouterr().err
