"""Notebooks find the model that was trained last, and what they hold it against is what they say it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.reporting import notebook

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CKPT", "FRONTIER", "MANIFEST", "PHONES", "UTTERANCES"):
        monkeypatch.delenv(f"STREAMNEST_{name}", raising=False)


def left_behind(root: Path, run: str, task: str, when: int) -> Path:
    path = root / "logs/runs" / run / "checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"streamnest": {"config": {"task": {"name": task}}}, "state_dict": {}}, path)
    os.utime(path, (when, when))
    return path


def test_the_newest_checkpoint_of_pretraining_is_taken_whatever_else_lies_there(tmp_path: Path) -> None:
    left_behind(tmp_path, "first", "pretrain", 100)
    second = left_behind(tmp_path, "second", "pretrain", 200)
    left_behind(tmp_path, "recogniser", "ctc", 300)
    left_behind(tmp_path, "killed", "pretrain", 400).write_bytes(b"half a file")
    assert notebook.find_checkpoint(tmp_path) == second


def test_without_runs_there_is_no_checkpoint_and_a_named_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notebook.find_checkpoint(tmp_path) is None
    left_behind(tmp_path, "first", "pretrain", 100)
    monkeypatch.setenv("STREAMNEST_CKPT", "mine.ckpt")
    assert notebook.find_checkpoint(tmp_path) == Path("mine.ckpt")


def test_the_repository_is_found_from_a_folder_inside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMNEST_ROOT", "")
    monkeypatch.chdir(ROOT / "notebooks")
    assert notebook.repository() == ROOT
    monkeypatch.setenv("STREAMNEST_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="STREAMNEST_ROOT"):
        notebook.repository()


def test_a_frontier_is_the_newest_or_an_example_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made_up = notebook.find_frontier(ROOT / "tests")
    assert made_up and path.name == "frontier.json"
    finished = tmp_path / "logs/frontier/frontier.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    assert notebook.find_frontier(tmp_path) == (finished, False)
    monkeypatch.setenv("STREAMNEST_FRONTIER", str(finished.parent))
    assert notebook.find_frontier(ROOT) == (finished, False)


def test_a_twin_with_the_weights_is_the_same_model_and_one_without_is_another(
    run_config: Callable[..., DictConfig], speech_like: Callable[..., torch.Tensor]
) -> None:
    model = ready(run_config("encoder=lookahead40", "encoder.normalize=global", "seed=3"))
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    audio, lengths = speech_like(1, 16000), torch.tensor([16000])
    with torch.no_grad():
        own, same, other = (
            m(audio, lengths)[0] for m in (model, notebook.twin(model), notebook.twin(model, trained=False))
        )
    assert torch.equal(own, same)
    assert not torch.allclose(own, other, atol=1e-2)


def test_a_twin_with_symmetric_convolutions_hears_the_future(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=causal"))
    leaky = notebook.twin(model, {"conv_padding": "symmetric", "allow_future_leak": True})
    assert leaky.latency.context_ms > model.latency.context_ms == 0
    assert torch.equal(leaky.encoder.layers[0].attention.qkv.weight, model.encoder.layers[0].attention.qkv.weight)


def test_the_sample_has_phones_and_another_manifest_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(u.phones for u in notebook.labelled_speech(ROOT))
    monkeypatch.setenv("STREAMNEST_MANIFEST", str(ROOT / "data/sample16k/manifest.jsonl"))
    assert not any(u.phones for u in notebook.labelled_speech(ROOT))


def test_how_many_utterances_are_heard_is_the_notebooks_own_number_or_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert notebook.how_many(70) == 70
    monkeypatch.setenv("STREAMNEST_UTTERANCES", "20")
    assert notebook.how_many(70) == 20
    for wrong in ("0", "few", "-3"):
        monkeypatch.setenv("STREAMNEST_UTTERANCES", wrong)
        with pytest.raises(UserError, match="a number above 0"):
            notebook.how_many(70)
