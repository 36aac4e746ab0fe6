"""Shared parts of the notebooks: newest checkpoint, model copies, speech and results."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.reporting import notebook

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CKPT", "FRONTIER", "MANIFEST", "PHONES", "UTTERANCES"):
        monkeypatch.delenv(f"STREAMNEST_{name}", raising=False)


def write_checkpoint(root: Path, run: str, task: str, when: int) -> Path:
    path = root / "logs/runs" / run / "checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"streamnest": {"config": {"task": {"name": task}}}, "state_dict": {}}, path)
    os.utime(path, (when, when))
    return path


def test_newest_readable_pretraining_checkpoint_is_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "first", "pretrain", 100)
    second = write_checkpoint(tmp_path, "second", "pretrain", 200)
    write_checkpoint(tmp_path, "recognizer", "ctc", 300)
    write_checkpoint(tmp_path, "killed", "pretrain", 400).write_bytes(b"incomplete")
    assert notebook.find_checkpoint(tmp_path) == second


def test_named_checkpoint_wins_and_none_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook.find_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, "first", "pretrain", 100)
    monkeypatch.setenv("STREAMNEST_CKPT", "mine.ckpt")
    assert notebook.find_checkpoint(tmp_path) == Path("mine.ckpt")


def test_repository_is_found_from_a_folder_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMNEST_ROOT", "")
    monkeypatch.chdir(ROOT / "notebooks")
    assert notebook.repository() == ROOT
    monkeypatch.setenv("STREAMNEST_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="STREAMNEST_ROOT"):
        notebook.repository()


def test_newest_or_published_frontier_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook.find_frontier(tmp_path) == tmp_path / "docs/data/frontier.json"
    assert notebook.published(ROOT, "frontier").is_file() and notebook.published(ROOT, "labels").is_file()
    finished = tmp_path / "logs/frontier/frontier.json"
    finished.parent.mkdir(parents=True)
    finished.write_text("{}")
    assert notebook.find_frontier(tmp_path) == finished
    monkeypatch.setenv("STREAMNEST_FRONTIER", str(finished.parent))
    assert notebook.find_frontier(ROOT) == finished


def test_twin_equals_the_model_only_with_its_weights(
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


def test_twin_with_symmetric_convolutions_looks_ahead(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=causal"))
    leaky = notebook.twin(model, {"conv_padding": "symmetric", "allow_future_leak": True})
    assert leaky.latency.context_ms > model.latency.context_ms == 0
    assert torch.equal(leaky.encoder.layers[0].attention.qkv.weight, model.encoder.layers[0].attention.qkv.weight)


def test_sample_has_phones_other_manifests_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(u.phones for u in notebook.labeled_speech(ROOT))
    monkeypatch.setenv("STREAMNEST_MANIFEST", str(ROOT / "data/sample16k/manifest.jsonl"))
    assert not any(u.phones for u in notebook.labeled_speech(ROOT))


def test_number_of_utterances_is_default_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert notebook.how_many(70) == 70
    monkeypatch.setenv("STREAMNEST_UTTERANCES", "20")
    assert notebook.how_many(70) == 20
    for wrong in ("0", "few", "-3"):
        monkeypatch.setenv("STREAMNEST_UTTERANCES", wrong)
        with pytest.raises(UserError, match="a number above 0"):
            notebook.how_many(70)


def test_notebook_page_shows_outputs_and_escapes_text() -> None:
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "tools/run_notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plot = nbformat.v4.new_output("display_data", {"image/png": "QUJD", "text/plain": "<Figure>"})
    table = nbformat.v4.new_output("display_data", {"text/markdown": "| a |\n| --- |\n| 1 |", "text/plain": "x"})
    empty = nbformat.v4.new_output("display_data", {"text/plain": "\n", "text/html": "<pre>\n</pre>"})
    streams = [nbformat.v4.new_output("stream", name=name, text=f"<{name}>") for name in ("stdout", "stderr")]
    code = nbformat.v4.new_code_cell("a < b", outputs=[plot, table, empty, *streams])
    page = module.as_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title & more"), code]))
    assert "<title>Title &amp; more</title>" in page and "a &lt; b" in page
    assert "base64,QUJD" in page and "<td>1</td>" in page and "&lt;stdout&gt;" in page
    assert "stderr" not in page and "Figure" not in page and "<pre>\n</pre>" not in page
