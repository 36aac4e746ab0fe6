"""Checks before a run starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from omegaconf import DictConfig

from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.code_usage import effective_rank
from streamnest.training import preflight
from streamnest.training.finished import is_complete, is_finished, last_value
from streamnest.training.preflight import doubts

Compose = Callable[..., DictConfig]
STORED = {"global_step": 20, "callbacks": {"ValHistory": {"records": [{"step": 20.0, "val/loss": 2.0}]}}}


def trainer(precision: str = "32-true") -> Any:
    return SimpleNamespace(precision=precision, accelerator=CPUAccelerator())


def test_a_finished_run_is_reported(run_config: Compose, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    cfg, own = run_config("trainer.max_steps=20", f"paths.output_dir={tmp_path}"), tmp_path / "checkpoints/last.ckpt"
    unvalidated = {**STORED, "callbacks": {"ValHistory": {"records": [{"step": 10.0, "val/loss": 3.0}]}}}
    assert is_complete(STORED, cfg) and not is_complete(STORED, run_config("trainer.max_steps=21"))
    assert not is_complete(STORED, run_config("trainer.max_steps=-1"))
    with caplog.at_level(logging.WARNING):
        for content, path, summary, finished in (
            (STORED, own, None, False),
            (STORED, Path("/other/last.ckpt"), None, True),
            (STORED, own, "{", False),
            (STORED, own, '{"step": 10}', False),
            (STORED, own, '{"step": 20}', True),
            (unvalidated, own, '{"step": 20}', False),
            ({"global_step": 20}, own, '{"step": 20}', True),
        ):
            if summary:
                (tmp_path / "summary.json").write_text(summary)
            caplog.clear()
            assert is_finished(StoredCheckpoint(path, dict(content)), cfg) is finished
            assert ("already finished" in caplog.text) is finished
            assert ("trainer.max_steps=40" if finished else "stopped before its validation") in caplog.text
    assert last_value(STORED, "val/loss") == 2.0 and last_value({}, "val/loss") is None


@pytest.mark.parametrize(
    ("override", "warned"), [("masking=none", True), ("masking=causal", False), ("objective=next_token", False)]
)
def test_masked_prediction_without_masks_gives_a_warning(run_config: Compose, override: str, warned: bool) -> None:
    words = [override, "masking=none"] if override.startswith("objective") else [override]
    assert any("nothing is masked" in doubt for doubt in doubts(run_config(*words), trainer())) == warned


@pytest.mark.parametrize(
    ("alone", "with_its_key"),
    [
        ("data.piece_left_s=5", "data.piece_s=8"),
        ("task.dual_mode.delay_ms=80", "task.dual_mode.distillation_weight=1"),
    ],
)
def test_keys_without_effect_give_a_warning(run_config: Compose, alone: str, with_its_key: str) -> None:
    key, needed = (one.partition("=")[0] for one in (alone, with_its_key))
    for words, warned in (((alone,), True), ((alone, with_its_key), False), ((), False)):
        found = list(doubts(run_config("task=ctc", *words), trainer()))
        assert (f"{alone} has no effect without {needed}: give both, or leave {key} out" in found) is warned


def test_untrained_norms_of_a_mode_give_a_warning(run_config: Compose) -> None:
    cfg = run_config("encoder.norms_per_mode=true")
    assert any("norms of full context are not trained" in doubt for doubt in doubts(cfg, trainer()))
    cfg.task.dual_mode.offline_weight = 1.0
    assert not list(doubts(cfg, trainer()))


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        ((), True),
        (("size.dropout=0.1", "freeze=encoder"), True),
        (("encoder.dropout_attention=0.1",), False),
        (("task.spec_augment.bands=2",), False),
        (("task.spec_augment.time_prob=0.01",), False),
        (("task.consistency_weight=0",), False),
    ],
)
def test_equal_views_of_cr_ctc_give_a_warning(run_config: Compose, overrides: tuple[str, ...], warned: bool) -> None:
    unmasked = ("task.spec_augment.time_prob=0", "task.spec_augment.bands=0", "size.dropout=0")
    cfg = run_config("task=ctc", "task.consistency_weight=0.2", *unmasked, *overrides)
    assert any("both views are equal" in doubt for doubt in doubts(cfg, trainer())) == warned


def test_an_emulated_precision_gives_a_warning_with_the_slowdown(
    run_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = run_config()
    assert preflight.slowdown(torch.float32) < 10  # measured, whatever it is
    for factor, warned in ((0.5, []), (15.2, ["15 times slower"])):
        monkeypatch.setattr(preflight, "slowdown", lambda dtype, factor=factor: factor)
        found = list(doubts(cfg, trainer("bf16-mixed")))
        assert len(found) == len(warned) and all(words in found[0] for words in warned)
    assert list(doubts(cfg, trainer())) == []


def test_more_workers_than_cores_give_a_warning(run_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    for workers, warned in (("null", []), (2, []), (4, [True])):
        found = list(doubts(run_config(f"data.num_workers={workers}"), trainer()))
        assert ["num_workers=4 is more than the 2 CPU cores" in doubt for doubt in found] == warned


def test_the_rank_of_non_finite_frames_is_nan() -> None:
    frames = torch.randn(30, 8)
    assert effective_rank(frames) > 1
    frames[3, 3] = float("inf")
    assert effective_rank(frames) != effective_rank(frames)
