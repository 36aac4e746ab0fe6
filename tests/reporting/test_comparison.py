"""Comparison of runs: reading their folders, grouping and ranking, tables and the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from inprocess import load
from run_folders import write_run

from streamnest.errors import UserError
from streamnest.reporting.comparison import find_runs
from streamnest.reporting.comparison.groups import comparable
from streamnest.reporting.comparison.learning import CurveAxes, describing_labels, learning_curve, trends
from streamnest.reporting.comparison.page import write_page
from streamnest.reporting.comparison.plots import plot_latency, plot_settings
from streamnest.reporting.comparison.runs import labels, settings
from streamnest.reporting.comparison.tables import best, compare


def test_run_reports_preset_state_metrics_and_latency(tmp_path: Path) -> None:
    latency = {"lookahead_ms": None, "latency_mean_ms": None}
    write_run(tmp_path / "a", ["encoder=bidirectional"], "bidirectional", step=20, latency=latency, seconds=3.0)
    (run,) = find_runs([tmp_path])
    assert (run.preset, run.state, run.step) == ("bidirectional", "finished", 20)
    assert run.curves["val/loss"].steps == (0, 10)
    assert run.last("val/loss") == 4.0
    assert run.latency["latency_mean_ms"] == math.inf


def test_killed_run_is_shown_with_its_logged_metrics(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["encoder=causal"])
    (run,) = find_runs([tmp_path])
    assert (run.state, run.step, run.latency["latency_mean_ms"]) == ("no summary", 10, 22.5)


def test_interrupted_run_is_not_called_finished(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [], step=12)
    assert find_runs([tmp_path])[0].state == "stopped at 12 of 20"


def test_run_continued_after_its_summary_is_not_called_stopped(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [], step=8)
    run = find_runs([tmp_path])[0]
    assert (run.state, run.step) == ("no summary", 10)


def test_a_continuation_replaces_what_was_logged_after_its_start(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [])
    for number in (2, 10):
        (folder / f"csv_{number}").mkdir()
        (folder / f"csv_{number}/metrics.csv").write_text(f"step,val/loss\n10,{number}.0\n{10 + number},1.0\n")
    (run,) = find_runs([tmp_path])
    assert dict(zip(run.curves["val/loss"].steps, run.curves["val/loss"].values)) == {0: 5.0, 10: 10.0, 20: 1.0}


def test_hours_of_a_validation_lie_between_logged_steps(tmp_path: Path) -> None:
    for name, lr in (("a", 1), ("b", 2)):
        folder = write_run(tmp_path / name, [f"optim.lr={lr}"])
        rows = "9,1.0,,,\n19,3.0,,,\n14,,0.6,,\n24,,0.5,0.4,0.7\n"
        (folder / "csv/metrics.csv").write_text(f"step,train/hours,val/cer,val/cer_low,val/cer_high\n0,,0.9,,\n{rows}")
    runs = find_runs([tmp_path])
    curve = learning_curve(runs[0], "val/cer", "a")
    assert curve is not None and curve.hours == pytest.approx((0.0, 2.0, 3.0 + 5 * 3 / 19))
    assert (curve.values, curve.interval) == ((0.9, 0.6, 0.5), (0.4, 0.7))
    assert trends(runs, "val/cer", CurveAxes(labels={tmp_path / "b": "B"}))[1].startswith(
        "B: CER 50.0% (40.0 to 70.0%)"
    )
    assert describing_labels(runs) == ["a, optim.lr=1", "b, optim.lr=2"]
    assert learning_curve(find_runs([write_run(tmp_path / "c", [])])[0], "val/loss", "c") is None


def test_unreadable_runs_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "good", [])
    (write_run(tmp_path / "broken", []) / ".hydra/hydra.yaml").write_text("]")
    with (write_run(tmp_path / "cut", []) / "csv/metrics.csv").open("a") as file:
        file.write("12,3.0x,\n")
    assert [run.folder.name for run in find_runs([tmp_path])] == ["cut", "good"]
    assert "broken is left out" in caplog.text
    assert "1 unreadable lines of metrics" in caplog.text


@pytest.mark.parametrize(
    "values", [{"step": [1]}, {"latency": {"lookahead_ms": {}}}, {"last": 5}, {"seconds": 10**400}]
)
def test_summary_with_wrong_types_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: dict[str, Any]
) -> None:
    write_run(tmp_path / "good", [])
    write_run(tmp_path / "odd", [], **values)
    assert [run.folder.name for run in find_runs([tmp_path])] == ["good"]
    assert "odd is left out: ValueError: summary.json" in caplog.text


def test_jobs_of_a_sweep_are_sorted_by_number(tmp_path: Path) -> None:
    for number in (10, 9, 0):
        write_run(tmp_path / f"{number}_x", [])
    assert [run.folder.name for run in find_runs([tmp_path])] == ["0_x", "9_x", "10_x"]


def test_settings_are_overrides_that_differ_without_paths(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["optim.lr=1e-3", "+seed=1", "run_id=a", "paths.log_dir=x", "masking=causal"])
    write_run(tmp_path / "b", ["optim.lr=2e-3", "run_id=b", "masking=causal"])
    assert settings(find_runs([tmp_path])) == ["optim.lr", "seed"]


@pytest.mark.parametrize(("metric", "expected"), [("val/loss", 2), ("val/rank", 1)])
def test_best_run_has_lowest_loss_or_highest_rank(tmp_path: Path, metric: str, expected: int) -> None:
    write_run(tmp_path / "a", [])
    (write_run(tmp_path / "b", []) / "csv/metrics.csv").write_text("step,val/loss,val/rank\n10,3.0,7\n")
    for name in ("_broken", "c"):  # before and after the others
        (write_run(tmp_path / name, []) / "csv/metrics.csv").write_text("step,val/loss,val/rank\n10,nan,nan\n")
    runs = find_runs([tmp_path])
    assert best(runs, metric) == expected
    assert compare(runs, metric).best == expected


def test_many_settings_share_one_column(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, [f"optim.{key}={name}" for key in ("lr", "min_lr", "betas", "weight_decay", "x")])
    table = compare(find_runs([tmp_path]), "val/loss")
    assert "optim.lr" not in table.header
    assert table.rows[0][table.header.index("settings")].startswith("optim.lr=a optim.min_lr=a")


def test_page_is_self_contained_and_escapes_names(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/0_a", ["encoder=causal"], latency={"latency_mean_ms": 22.5}, step=20)
    write_run(tmp_path / "runs/1_<b>", ["encoder=x"], "lookahead40", latency={"latency_mean_ms": 42.5}, step=20)
    page = write_page({"pretrain": find_runs([tmp_path / "runs"])}, tmp_path / "report")
    text = page.read_text()
    assert "<b>" not in text
    assert "<title>Comparison of 2 runs: pretrain</title>" in text
    assert "http" not in text
    names = {path.name for path in page.parent.glob("*.png")}
    assert names == {"pretrain_latency.png", "pretrain_curves.png", "pretrain_health.png"}
    assert text.count("data:image/png;base64,") == len(names)


def test_folders_without_runs_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run with results in"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match="not a folder"):
        find_runs([tmp_path / "nowhere"])


def write_configured_run(folder: Path, value: float, task: str = "pretrain", **groups: Any) -> None:
    write_run(folder, [])
    (folder / "csv/metrics.csv").write_text(f"step,val/loss,val/rank\n10,{value},{value}\n")
    config = {"task": {"name": task, "monitor": "val/loss"}, "masking": {"mask_prob": 0.01}, **groups}
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))


def test_only_runs_with_the_same_objective_are_compared(tmp_path: Path) -> None:
    for number, prob in enumerate((0.01, 0.01, 0.5)):
        share = {
            "mask_prob": prob,
            "_target_": str(number),
            "d_model": number,
            "feat_in": ("${frontend.num_mels}", 80, 80)[number],
        }
        write_configured_run(tmp_path / f"{number}_m", 3.0 - number, masking=share, frontend={"num_mels": 80})
    write_configured_run(tmp_path / "3_codes", 0.1, quantizer={"num_classes": 8})
    write_configured_run(tmp_path / "4_objective", 0.1, objective={"unmasked_weight": 1})
    write_configured_run(tmp_path / "5_data", 0.1, data={"val_manifest": "other"})
    write_configured_run(tmp_path / "6_task", 0.1, task="ctc")
    write_configured_run(tmp_path / "7_noisy", 0.1, data={"augment_val": True})
    parts = comparable(find_runs([tmp_path]))
    assert [[run.folder.name for run in part] for part in parts.values()] == [
        ["0_m", "1_m"],
        *([name] for name in ("2_m", "3_codes", "4_objective", "5_data", "6_task", "7_noisy")),
    ]
    assert any("masking.mask_prob=0.5" in heading for heading in parts) and "ctc" in parts
    assert [compare(part, "val/loss").best for part in parts.values()] == [1, *[None] * 6]
    for metric in ("val/rank", "val/cer"):
        ranked = comparable(find_runs([tmp_path]), metric)
        assert [len(part) for part in ranked.values()] == [5, 1, 1, 1]


@pytest.mark.parametrize("width", [80, 100, 220])
def test_terminal_table_shows_all_values_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latency = {"lookahead_ms": 42.4, "latency_mean_ms": 42.5}
    for number in range(2):
        overrides = [f"optim.lr={number}", f"seed={number}", f"size.d_model=2{number}"]
        write_run(tmp_path / f"{number}_run", overrides, latency=latency, step=20, parameters=12345678, seconds=321)
    report = load("report")
    monkeypatch.setattr(report, "_WIDTH", width)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "--title", "t"])
    monkeypatch.setattr(report, "write_page", lambda *_: "page")
    assert report.main() == 0
    text = capsys.readouterr().out
    for value in ("finished", "42.4 ms", "42.5 ms", "12.3M", "5 min", "4.000", "optim.lr", "0_run"):
        assert value in text, value
    assert max(map(len, text.splitlines()[:-1])) <= width


def test_runs_of_one_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    for folder in ("one/a", "one/b", "two/a", "two/c"):
        write_run(tmp_path / folder, [], step=20)
    runs = find_runs([tmp_path])
    for run in runs[1:]:
        run.summary["name"] = "same"
    assert labels(runs) == ["a", "same (b)", "same (a)", "same (c)"]
    runs[0].summary["name"] = "same"
    assert labels(runs) == ["same (one/a)", "same (b)", "same (two/a)", "same (c)"]


def test_refused_runs_are_not_listed(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [])
    (write_run(tmp_path / "refused", []) / "csv/metrics.csv").unlink()
    assert [run.folder.name for run in find_runs([tmp_path])] == ["good"]


def test_percent_metric_is_plotted_against_several_settings(tmp_path: Path) -> None:
    for number in range(2):
        folder = write_run(tmp_path / f"{number}", [f"optim.lr={number}", f"seed={number}"])
        (folder / "csv/metrics.csv").write_text(f"step,val/cer\n10,0.{number + 5}\n")
    figure = plot_settings(find_runs([tmp_path]), "val/cer")
    assert figure is not None
    figure.draw_without_rendering()
    assert [axes.get_xlabel() for axes in figure.axes] == ["optim.lr", "seed"]
    assert any("%" in label.get_text() for label in figure.axes[0].get_yticklabels())


def test_presets_of_one_latency_are_named_once(tmp_path: Path) -> None:
    presets = ("causal", "limited3200", "limited3200", "lookahead40")
    for number, (preset, latency) in enumerate(zip(presets, (22.5, 22.5, 22.5, 42.5), strict=True)):
        write_run(tmp_path / f"{number}", [f"encoder={preset}"], preset, step=20, latency={"latency_mean_ms": latency})
    figure = plot_latency(find_runs([tmp_path]), "val/loss")
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["causal\nlimited3200", "lookahead40"]


def test_runs_that_mask_nothing_or_tie_are_not_best(tmp_path: Path) -> None:
    masked = {"objective": {"mask_threshold": 0.8, "unmasked_weight": 1}, "masking": {"kind": "none"}}
    for number, value in enumerate((0.1, 0.2)):
        write_configured_run(tmp_path / f"{number}", value, **masked)
    runs = find_runs([tmp_path])
    table = compare(runs, "val/loss")
    assert table.best is None and table.header[1] == "loss (nats)" and table.rows[0][1] == "0.100 (nothing masked)"
    for run in runs:
        run.config["objective"] = {"num_offsets": 4}
    assert best(runs, "val/loss") == 0
    runs[0].curves = runs[1].curves
    assert best(runs, "val/loss") is None
