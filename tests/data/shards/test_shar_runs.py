"""Weighted sources: a killed and resumed run has the losses of an uninterrupted one."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
from processes import Process
from runs import UNCHECKED, environment

from streamnest.data.manifest import load_cuts
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "data" / "sample16k"
SMALL = (
    "debug=fast",
    UNCHECKED,
    "size.d_model=32",
    "trainer=ddp_cpu",
    "trainer.max_steps=9",
    "trainer.val_check_interval=3",
)


def start(folder: Path, *words: str) -> Process:
    return Process("train.py", *SMALL, *words, env=environment(folder))


def losses(folder: Path) -> dict[str, str]:
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        return {row["step"]: row["train/loss"] for row in csv.DictReader(file) if row.get("train/loss")}


@pytest.mark.long
def test_two_killed_ranks_with_weighted_sources_resume_exactly(tmp_path: Path) -> None:
    cuts, _ = load_cuts(SAMPLE / "cuts_train.jsonl")
    write_shards(cuts, str(tmp_path / "shards"), make_plan(cuts, "flac", 100))
    sources = f"{{a: {{path: {tmp_path}/shards, weight: 1}}, b: {{path: {SAMPLE}/cuts_dev.jsonl, weight: 1}}}}"
    val = f"data.val_manifest={SAMPLE}/cuts_dev.jsonl"
    data = ("data=shar", f"data.train_manifest={sources}", val, "data.batch_duration=20", "data.num_workers=2")
    whole = start(tmp_path / "whole", *data)
    assert "source b: 50.0 %" in whole.communicate(timeout=300)[0] and whole.returncode == 0

    killed = start(tmp_path / "killed", *data)
    assert any(line.startswith("step 5/") for line in killed.stdout)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (checkpoint,) = (tmp_path / "killed").rglob("last.ckpt")
    rest = start(tmp_path / "rest", *data, f"ckpt_path={checkpoint}")
    rest.communicate(timeout=300)
    assert rest.returncode == 0
    expected, resumed = losses(tmp_path / "whole"), losses(tmp_path / "rest")
    assert len(resumed) >= 6 and resumed == {step: expected[step] for step in resumed}
