"""Runs are read from what they left, and compared without hiding what is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from inprocess import load

from streamnest.errors import UserError
from streamnest.reporting.comparison import find_runs
from streamnest.reporting.comparison.groups import comparable
from streamnest.reporting.comparison.page import write_page
from streamnest.reporting.comparison.runs import settings
from streamnest.reporting.comparison.tables import best, compare


def written(folder: Path, words: list[str], encoder: str = "causal", **summary: Any) -> Path:
    """The folder of a run of 20 steps."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(
        yaml.safe_dump({"task": {"name": "pretrain", "monitor": "val/loss"}, "trainer": {"max_steps": 20}})
    )
    hydra = {"runtime": {"choices": {"encoder": encoder}}, "overrides": {"task": words}}
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    (folder / "csv").mkdir()
    (folder / "csv/metrics.csv").write_text("step,val/loss,val/rank\n0,5.0,9\n10,4.0,8\n")
    (folder / "csv/hparams.yaml").write_text("latency/lookahead_ms: 2.4\nlatency/latency_mean_ms: 22.5\n")
    if summary:
        (folder / "summary.json").write_text(json.dumps({"name": folder.name, "preset": encoder, **summary}))
    return folder


def test_a_run_tells_what_it_was_and_what_it_reached(tmp_path: Path) -> None:
    latency = {"lookahead_ms": None, "latency_mean_ms": None}
    written(tmp_path / "a", ["encoder=bidirectional"], "bidirectional", step=20, latency=latency, seconds=3.0)
    (run,) = find_runs([tmp_path])
    assert (run.preset, run.state, run.step) == ("bidirectional", "finished", 20)
    assert run.curves["val/loss"].steps == (0, 10)
    assert run.last("val/loss") == 4.0
    assert run.latency["latency_mean_ms"] == math.inf


def test_a_run_that_was_killed_is_shown_with_what_it_logged(tmp_path: Path) -> None:
    written(tmp_path / "a", ["encoder=causal"])
    (run,) = find_runs([tmp_path])
    assert (run.state, run.step, run.latency["latency_mean_ms"]) == ("no summary", 10, 22.5)


def test_a_run_that_a_signal_ended_is_not_called_finished(tmp_path: Path) -> None:
    written(tmp_path / "a", [], step=12)
    assert find_runs([tmp_path])[0].state == "stopped at 12 of 20"


def test_a_run_that_goes_on_after_its_summary_is_not_called_stopped(tmp_path: Path) -> None:
    written(tmp_path / "a", [], step=8)
    run = find_runs([tmp_path])[0]
    assert (run.state, run.step) == ("no summary", 10)


def test_metrics_of_a_continued_run_are_joined_and_the_later_ones_count(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", [])
    for number in (2, 10):
        (folder / f"csv_{number}").mkdir()
        (folder / f"csv_{number}/metrics.csv").write_text(f"step,val/loss\n10,{number}.0\n{10 + number},1.0\n")
    (run,) = find_runs([tmp_path])
    assert dict(zip(run.curves["val/loss"].steps, run.curves["val/loss"].values)) == {
        0: 5.0,
        10: 10.0,
        12: 1.0,
        20: 1.0,
    }


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "good", [])
    (written(tmp_path / "broken", []) / ".hydra/hydra.yaml").write_text("]")
    with (written(tmp_path / "cut", []) / "csv/metrics.csv").open("a") as file:
        file.write("12,3.0x,\n")
    assert [run.folder.name for run in find_runs([tmp_path])] == ["cut", "good"]
    assert "broken is left out" in caplog.text
    assert "1 lines of metrics" in caplog.text


@pytest.mark.parametrize(
    "values", [{"step": [1]}, {"latency": {"lookahead_ms": {}}}, {"last": 5}, {"seconds": 10**400}]
)
def test_a_summary_with_values_of_other_types_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: dict[str, Any]
) -> None:
    written(tmp_path / "good", [])
    written(tmp_path / "odd", [], **values)
    assert [run.folder.name for run in find_runs([tmp_path])] == ["good"]
    assert "odd is left out: ValueError: summary.json holds" in caplog.text


def test_jobs_of_a_sweep_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 0):
        written(tmp_path / f"{number}_x", [])
    assert [run.folder.name for run in find_runs([tmp_path])] == ["0_x", "9_x", "10_x"]


def test_settings_are_what_runs_differ_in_and_not_where_they_are(tmp_path: Path) -> None:
    written(tmp_path / "a", ["optim.lr=1e-3", "+seed=1", "run_id=a", "paths.log_dir=x", "masking=causal"])
    written(tmp_path / "b", ["optim.lr=2e-3", "run_id=b", "masking=causal"])
    assert settings(find_runs([tmp_path])) == ["optim.lr", "seed"]


@pytest.mark.parametrize(("metric", "expected"), [("val/loss", 2), ("val/rank", 1)])
def test_the_best_run_has_the_least_loss_or_the_highest_rank(tmp_path: Path, metric: str, expected: int) -> None:
    written(tmp_path / "a", [])
    (written(tmp_path / "b", []) / "csv/metrics.csv").write_text("step,val/loss,val/rank\n10,3.0,7\n")
    for name in ("_broken", "c"):  # before and after the others
        (written(tmp_path / name, []) / "csv/metrics.csv").write_text("step,val/loss,val/rank\n10,nan,nan\n")
    runs = find_runs([tmp_path])
    assert best(runs, metric) == expected
    assert compare(runs, metric).best == expected


def test_more_settings_than_fit_share_a_column(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, [f"optim.{key}={name}" for key in ("lr", "min_lr", "betas", "weight_decay", "x")])
    table = compare(find_runs([tmp_path]), "val/loss")
    assert "optim.lr" not in table.header
    assert table.rows[0][table.header.index("settings")].startswith("optim.lr=a optim.min_lr=a")


def test_the_page_needs_nothing_beside_it_and_escapes_what_runs_say(tmp_path: Path) -> None:
    written(tmp_path / "runs/0_a", ["encoder=causal"], latency={"latency_mean_ms": 22.5}, step=20)
    written(tmp_path / "runs/1_<b>", ["encoder=x"], "lookahead40", latency={"latency_mean_ms": 42.5}, step=20)
    page = write_page({"pretrain": find_runs([tmp_path / "runs"])}, tmp_path / "report", None, "two runs")
    text = page.read_text()
    assert "<b>" not in text
    assert "http" not in text
    names = {path.name for path in page.parent.glob("*.png")}
    assert names == {"pretrain_latency.png", "pretrain_curves.png", "pretrain_health.png"}
    assert text.count("data:image/png;base64,") == len(names)


def test_folders_without_runs_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="no folder"):
        find_runs([tmp_path / "nowhere"])


def asked(folder: Path, value: float, task: str = "pretrain", **groups: Any) -> None:
    written(folder, [])
    (folder / "csv/metrics.csv").write_text(f"step,val/loss,val/rank\n10,{value},{value}\n")
    config = {"task": {"name": task, "monitor": "val/loss"}, "masking": {"mask_prob": 0.01}, **groups}
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))


def test_only_runs_of_the_same_question_are_compared(tmp_path: Path) -> None:
    for number, prob in enumerate((0.01, 0.01, 0.5)):
        share = {"mask_prob": prob, "_target_": str(number), "feat_in": ("${frontend.num_mels}", 80, 80)[number]}
        asked(tmp_path / f"{number}_m", 3.0 - number, masking=share, frontend={"num_mels": 80})
    asked(tmp_path / "3_codes", 0.1, quantizer={"num_classes": 8})
    asked(tmp_path / "4_objective", 0.1, objective={"unmasked_weight": 1})
    asked(tmp_path / "5_data", 0.1, data={"val_manifest": "other"})
    asked(tmp_path / "6_task", 0.1, task="ctc")
    parts = comparable(find_runs([tmp_path]))
    assert [[run.folder.name for run in part] for part in parts.values()] == [
        ["0_m", "1_m"],
        *([name] for name in ("2_m", "3_codes", "4_objective", "5_data", "6_task")),
    ]
    assert any("masking.mask_prob=0.5" in heading for heading in parts) and "ctc" in parts
    assert [compare(part, "val/loss").best for part in parts.values()] == [1, *[None] * 5]
    ranked = comparable(find_runs([tmp_path]), "val/rank")
    assert [len(part) for part in ranked.values()] == [5, 1, 1]


@pytest.mark.parametrize("width", [60, 100, 220])
def test_a_table_loses_nothing_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latency = {"lookahead_ms": 42.4, "latency_mean_ms": 42.5}
    for number in range(2):
        words = [f"optim.lr={number}", f"seed={number}", f"size.d_model=2{number}"]
        written(tmp_path / f"{number}_run", words, latency=latency, step=20, parameters=12345678, seconds=321)
    report = load("report")
    monkeypatch.setattr(report, "_WIDTH", width)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "--title", "t"])
    monkeypatch.setattr(report, "write_page", lambda *_: "page")
    assert report.main() == 0
    text = capsys.readouterr().out
    for figure in ("finished", "42.4 ms", "42.5 ms", "12.3M", "321 s", "4.000", "optim.lr"):
        assert figure in text, figure
    assert max(map(len, text.splitlines()[:-1])) <= width
