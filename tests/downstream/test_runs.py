"""Whole runs of recognizers: they learn, and a killed run resumes exactly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Process, run
from runs import UNCHECKED, environment

from streamnest.checkpoint.loading import load_model
from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts

ROOT = Path(__file__).parents[2]
TINY = ("debug=fast", UNCHECKED, "size.d_model=32", "trainer=cpu", "threads=1", "~callbacks.plots")


def start(folder: Path, *words: str) -> Process:
    return Process("train.py", *TINY, *words, env=environment(folder))


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def killed_at(folder: Path, step: int, *words: str) -> None:
    process = start(folder, *words)
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    assert process.wait(timeout=60) == -signal.SIGKILL


def checkpoint(folder: Path, name: str) -> Path:
    return folder / "runs" / name / "checkpoints/last.ckpt"


@pytest.mark.long
def test_a_killed_run_resumes_exactly_without_its_pretrained_encoder(tmp_path: Path) -> None:
    steps = ("trainer.max_steps=6", "trainer.val_check_interval=3", "size.dropout=0.1")
    saving = ("callbacks.regular.every_n_train_steps=1", "callbacks.regular.train_time_interval=null")
    finish(tmp_path, "encoder=causal", "trainer.max_steps=2", "trainer.val_check_interval=2", "run_id=pretrained")
    encoder = checkpoint(tmp_path, "pretrained")
    losses = ("task.consistency_weight=0.2", "task.intermediate_layers=[1]", "task.label_smoothing=0.05")
    task = ("task=ctc", f"encoder_from={encoder}", "freeze=3", *losses, *steps, *saving)
    text = finish(tmp_path, *task, "run_id=whole")
    assert "character error rate" in text and "for unseen speakers" in text and "22.5 ms mean, 42.5 ms worst" in text
    killed_at(tmp_path, 4, *task, "run_id=killed")
    encoder.rename(encoder.with_suffix(".gone"))
    assert "continues at" in finish(tmp_path, *task, "run_id=killed")
    one, other = (
        torch.load(checkpoint(tmp_path, name), weights_only=True)["state_dict"] for name in ("whole", "killed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.long
# The loss of a transducer sums over alignments, as its beam does: it is small long before one alignment dominates.
@pytest.mark.parametrize(("task", "steps", "how"), [("ctc", 150, "--stream"), ("rnnt", 300, "--beam=8")])
def test_four_utterances_are_learned_by_heart_and_transcribed(tmp_path: Path, task: str, steps: int, how: str) -> None:
    lines = (ROOT / "data/sample16k/cuts_train.jsonl").read_text().splitlines()
    cuts = [json.loads(line) for line in lines]
    chosen = [cut for cut in cuts if 1.0 < cut["duration"] < 1.8 and cut["supervisions"][0].get("text")][:4]
    for cut in chosen:
        source = cut["recording"]["sources"][0]
        source["source"] = str(ROOT / "data/sample16k" / source["source"])
    manifest = tmp_path / "four.jsonl"
    manifest.write_text("".join(json.dumps(cut) + "\n" for cut in chosen))
    finish(
        tmp_path,
        *(f"task={task}", "encoder=lookahead80", "augment=none", "run_id=four", "size.d_model=64"),
        *(
            f"trainer.max_steps={steps}",
            f"trainer.val_check_interval={steps}",
            "optim.lr=3e-3",
            "task.spec_augment.time_prob=0",
            "task.spec_augment.bands=0",
        ),
        *(f"data.train_manifest={manifest}", f"data.val_manifest={manifest}", "trainer.log_every_n_steps=50"),
    )
    model = checkpoint(tmp_path, "four")
    words = (model, "--manifest", manifest, how, "--json", tmp_path / "found.json")
    run("scripts/transcribe.py", *words).check_returncode()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cer"] < 0.1 and len(found["utterances"]) == 4
    recognizer: Any = load_model(model)
    for cut, record in zip(load_cuts(manifest)[0], found["utterances"], strict=True) if how == "--stream" else ():
        audio = torch.from_numpy(load_mono(cut))
        assert recognizer.recognize(audio[None], torch.tensor([len(audio)])) == [record["text"]]


@pytest.mark.long
def test_what_is_no_checkpoint_is_refused_without_a_trace(tmp_path: Path) -> None:
    done = run("scripts/transcribe.py", "README.md", "x.wav")
    assert (
        done.returncode == 2 and "README.md is not a valid checkpoint" in done.stderr and "Traceback" not in done.stderr
    )
