"""The summary of a run as data."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models import ready
from omegaconf import DictConfig

from streamnest.callbacks.history import ValHistory
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.reporting.summary import EndedRun, columns, publish, summarize

Compose = Callable[..., DictConfig]


def summary_of(run_config: Compose, *overrides: str) -> dict[str, Any]:
    history, model = ValHistory(), ready(cfg := run_config(*overrides))
    history.records = [{"step": 0.0, "val/loss": 9.0}, {"step": 5.0, "val/loss": 4.0, "val/rank": math.nan}]
    report = SimpleNamespace(counts={"too short": 2, "resampled": 7})
    data: Any = SimpleNamespace(skipped=Counter(missing=1), report={"train": report, "val": report})
    trainer: Any = SimpleNamespace(global_step=5, max_steps=9)
    return summarize(EndedRun(cfg, model, data, trainer, history, seconds=3.0))


def test_a_summary_has_latency_quality_and_skipped_utterances(run_config: Compose) -> None:
    summary = summary_of(run_config, "encoder=lookahead40")
    assert summary["latency"]["latency_mean_ms"] == 42.5
    assert (summary["first"]["val/loss"], summary["last"]["val/loss"]) == (9.0, 4.0)
    assert (summary["step"], summary["max_steps"], summary["seconds"]) == (5, 9, 3.0)
    assert summary["skipped"] == {"missing": 1, "too short": 4}


def test_numbers_that_are_not_finite_are_null(run_config: Compose, tmp_path: Path) -> None:
    summary = summary_of(run_config, "encoder=bidirectional", "masking=random")
    publish(summary, tmp_path, SimpleNamespace(loggers=[]))  # type: ignore[arg-type]
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read["latency"]["lookahead_ms"] is None
    assert read["last"]["val/rank"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_that_cannot_be_written_stops_no_run(
    run_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    publish(summary_of(run_config), tmp_path / "file", SimpleNamespace(loggers=[]))  # type: ignore[arg-type]
    assert "summary.json could not be written" in caplog.text


def test_the_table_of_runs_in_wandb_shows_latency_and_quality(
    run_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(UnfailingWandbLogger, "experiment", SimpleNamespace(summary=shown))
    logger = UnfailingWandbLogger.__new__(UnfailingWandbLogger)
    logger.failures = Counter()
    summary = summary_of(run_config, "encoder=lookahead40")
    publish(summary, tmp_path, SimpleNamespace(loggers=[logger]))  # type: ignore[arg-type]
    assert shown == columns(summary) and "step" in summary["last"] and "step" not in shown
    assert (shown["latency/lookahead_ms"], shown["quality/loss"], shown["run/preset"]) == (42.4375, 4.0, "t")
