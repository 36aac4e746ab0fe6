"""Training on codes of a teacher: exact resume, the cache, and a second iteration."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.build import build_data, build_model
from streamnest.checkpoint.loading import StoredCheckpoint, load_model, load_pretrained, write_checkpoint
from streamnest.checkpoint.target_teacher import attach_stored_teacher, attach_teacher, with_teacher
from streamnest.checkpoint.transfer import transfer
from streamnest.commands import train as command
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.batch import Batch
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.subject import Subject
from streamnest.targets import CodeCache, Teacher

Compose = Callable[..., DictConfig]
SMALL = (
    *("quantizer=teacher", "quantizer.layer=2", "quantizer.num_classes=16", "encoder=lookahead40", "size.dropout=0.1"),
    *("data.batch_duration=15", "data.num_batches=8", "data.cache_mb=0", "statistics.hours=0.01"),
)
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def built(cfg: DictConfig, stored: Path | None = None) -> tuple[Pretraining, Any]:
    """Builds model and data of a run as train.py does."""
    L.seed_everything(0, verbose=False)
    cfg, teacher = with_teacher(cfg, StoredCheckpoint.read(stored) if stored else None)
    data = build_data(cfg)
    model = build_model(cfg)
    assert teacher
    attach_teacher(model, teacher)
    data.hash_audio = cfg.quantizer.cache is not None
    data.setup("fit")
    if not stored:
        fit_statistics(model, data.statistics_batches(), 0.01)
    return model, data


def trained(cfg: DictConfig, steps: int, stored: Path | None = None) -> tuple[Pretraining, L.Trainer]:
    model, data = built(cfg, stored)
    trainer = L.Trainer(
        **QUIET, accelerator="cpu", max_steps=steps, max_epochs=-1, use_distributed_sampler=False,
        num_sanity_val_steps=0, limit_val_batches=0, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=stored, weights_only=True)
    return model, trainer


@pytest.fixture
def run(run_config: Compose, teacher_file: Callable[..., Path], tmp_path: Path) -> Callable[..., DictConfig]:
    path = teacher_file()
    return lambda *words: run_config(*SMALL, f"quantizer.checkpoint={path}", f"quantizer.cache={tmp_path}/c", *words)


def test_a_run_continues_bit_for_bit_with_an_empty_cache(run: Callable[..., DictConfig], tmp_path: Path) -> None:
    whole, _ = trained(run(), 4)
    _, trainer = trained(run("quantizer.cache=null"), 2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    more, _ = trained(run(f"quantizer.cache={tmp_path}/new"), 4, tmp_path / "two.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, more.state_dict()[name]), name
    cache = more.quantizer.cache
    assert isinstance(cache, CodeCache) and not cache._waiting
    with closing(sqlite3.connect(cache.path)) as database:
        assert database.execute("SELECT count(*) FROM codes").fetchone()[0] == cache.misses > 0
    assert whole.train_counts.sum() > 800 and bool(whole.quantizer.fitted)


def test_cached_utterances_skip_the_teacher(run: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = built(run())
    batch: Batch = next(iter(data.statistics_batches()))
    assert len(set(batch.hashes)) == len(batch.ids)
    model.quantizer.open_cache()  # type: ignore[operator]
    first = model.prepare_batch(batch, 0)[1]
    model.quantizer.cache.flush()  # type: ignore[operator, union-attr]
    rows: list[int] = []
    original = Teacher.frames
    monkeypatch.setattr(Teacher, "frames", lambda self, x, *rest: rows.append(len(x)) or original(self, x, *rest))
    assert torch.equal(model.prepare_batch(batch, 1)[1], first) and not rows
    cache, counts = CodeCache("unused", "partial", 16, 1), batch.lengths // 640
    cache._usable = False
    odd = {batch.hashes[n]: first[n, : counts[n]].numpy() for n in range(1, len(counts), 2)}
    monkeypatch.setattr(cache, "read", lambda hashes: odd)
    model.quantizer.cache = cache  # type: ignore[assignment, union-attr]
    assert torch.equal(model.prepare_batch(batch, 1)[1], first) and sum(rows) == len(counts) - len(odd)
    rows.clear()
    model.quantizer.centers[0, 3] += 1  # type: ignore[index, operator]
    model.quantizer.open_cache()  # type: ignore[operator]
    model.prepare_batch(batch, 0)
    assert sum(rows) == len(batch.ids)


def test_another_teacher_cannot_continue_a_run(
    run: Callable[..., DictConfig], teacher_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trainer = trained(run(), 1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    stored = StoredCheckpoint.read(tmp_path / "one.ckpt")
    changed = load_model(teacher_file())
    next(changed.encoder.layers[1].parameters()).data += 0.1
    write_checkpoint(changed, tmp_path / "other.ckpt")
    monkeypatch.setattr(command, "require_causal", lambda *_, **__: None)  # it takes seconds
    cfg = run(f"quantizer.checkpoint={tmp_path}/other.ckpt", f"ckpt_path={tmp_path}/one.ckpt", "trainer.max_steps=2")
    with pytest.raises(UserError, match=r"quantizer\.checkpoint=.*other\.ckpt is not the teacher of .*one\.ckpt"):
        command.train(cfg)
    with pytest.raises(UserError, match=r"quantizer\.checkpoint=.*gone\.ckpt .* no checkpoint"):
        with_teacher(run(f"quantizer.checkpoint={tmp_path}/gone.ckpt"), stored)
    cfg, none = with_teacher(run(f"quantizer.checkpoint={tmp_path}/gone.ckpt"), stored, load=False)
    assert none is None and cfg.quantizer.width == 32
    (tmp_path / "moved.ckpt").write_bytes((tmp_path / "teacher.ckpt").read_bytes())
    assert with_teacher(run(f"quantizer.checkpoint={tmp_path}/moved.ckpt"), stored)[1]


def test_a_trained_student_computes_its_targets_with_its_teacher_only(
    run: Callable[..., DictConfig], teacher_file: Callable[..., Path], tmp_path: Path
) -> None:
    model, data = built(run("quantizer.cache=null"))
    batch: Batch = next(iter(data.statistics_batches()))
    write_checkpoint(model, tmp_path / "student.ckpt")
    again = load_model(tmp_path / "student.ckpt")
    assert isinstance(again, Pretraining)
    other = load_model(teacher_file())
    next(other.encoder.layers[1].parameters()).data += 0.1
    write_checkpoint(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is not the teacher .* quantizer\.checkpoint=.*teacher\.ckpt"):
        attach_stored_teacher(again, str(tmp_path / "other.ckpt"))
    attach_stored_teacher(again, str(tmp_path / "teacher.ckpt"))
    assert torch.equal(again.prepare_batch(batch, 0)[1], model.prepare_batch(batch, 0)[1])


def test_a_second_iteration_starts_from_the_student_with_new_codes(
    run: Callable[..., DictConfig], tmp_path: Path
) -> None:
    first, _ = trained(run(), 1)
    path = tmp_path / "first.ckpt"
    write_checkpoint(first, path)
    second, _ = built(run(f"quantizer.checkpoint={path}"))
    report = transfer(second, path)
    outcome = {part.name: part.outcome for part in report.parts}
    assert outcome["quantizer.centers"] == outcome["objective.heads.weight"] == "new"
    assert outcome["encoder.subsampling.first.weight"] == "kept"
    assert not torch.equal(first.quantizer.centers, second.quantizer.centers)
    again, _ = built(run())
    assert {p.outcome for p in transfer(again, path).parts if p.name.startswith(("quantizer", "objective"))} == {"kept"}


def test_proof_of_causality_uses_codes_of_the_whole_utterance(run: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg, _ = with_teacher(run())
    model = ready(cfg)
    write_checkpoint(model, tmp_path / "student.ckpt")
    subject = Subject(load_pretrained(tmp_path / "student.ckpt"))
    assert isinstance(subject.model, Pretraining)
    audio, length = torch.randn(1, 16000) * 0.1, torch.tensor([16000])
    features, frames = subject.model.frontend(audio.double(), length)
    codes = subject.model.targets(features, frames)
    assert codes.shape == (1, 25, 1) and len(codes.unique()) > 3 and codes.max() < 16
