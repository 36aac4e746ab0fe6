"""Report of a frontier, computed from synthetic results: intervals, points, tables and plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from frontiers import evaluation, fill, share
from matplotlib.text import Text
from run_folders import write_run

from streamnest.downstream.metrics.error_rates import bootstrap
from streamnest.errors import UserError
from streamnest.frontier import plots, report
from streamnest.frontier.command import main
from streamnest.frontier.consumed import budget_text
from streamnest.frontier.effects import plot_delays, plot_effects, plot_variants
from streamnest.frontier.intervals import Bootstrap, rate
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import make_plan
from streamnest.frontier.plots import Series, plot_frontier, plot_labels
from streamnest.frontier.records import Records
from streamnest.frontier.results import counts_of, read_points
from streamnest.frontier.stored_results import read_report
from streamnest.frontier.tables.cells import amount
from streamnest.frontier.tables.data import as_json
from streamnest.frontier.tables.markdown import as_markdown

ROOT = Path(__file__).parents[2]
PRESETS = ("causal", "limited3200", "lookahead80", "dynamic", "bidirectional")
OPTIONS = FrontierOptions(presets=PRESETS, contexts=("causal", "full"), seeds=(0, 1), hours=(0.5, None), probes=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> report.FrontierReport:
    """A small report, which takes less time."""
    options = FrontierOptions(presets=("causal", "limited3200", "dynamic", "bidirectional"), contexts=("full",))
    records = Records(tmp_path_factory.mktemp("small"))
    fill(options, records)
    return report.gather(options, records, "the command")


def counts(shares: list[float], seed: int = 0) -> np.ndarray:
    results = [evaluation(share, "causal", seed + number) for number, share in enumerate(shares)]
    return counts_of(results, "cer", [line[0] for line in results[0]["utterances"]])


def test_interval_of_one_seed_equals_that_of_error_rates() -> None:
    found = counts([0.4])
    estimate = Bootstrap(1, 200).rate(found)
    assert (estimate.low, estimate.high) == pytest.approx(bootstrap(found[0]))
    assert estimate.low < estimate.value < estimate.high


def test_different_seeds_widen_the_interval() -> None:
    alike, apart = (Bootstrap(2, 200).rate(counts(shares)) for shares in ([0.4, 0.4], [0.3, 0.5]))
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    assert apart.value == pytest.approx(rate(counts([0.3, 0.5])))


def test_paired_difference_has_a_narrower_interval() -> None:
    scratch = counts([0.5])
    better = scratch * [[[0.9, 1.0]]]
    bootstrapped = Bootstrap(1, 200)
    change = bootstrapped.change(better, scratch)
    assert change.value == pytest.approx(-0.1) and change.low == pytest.approx(-0.1) == change.high
    assert bootstrapped.change(scratch, better).value > 0
    other = bootstrapped.change(counts([0.45], seed=5), scratch)
    assert other.low < other.value < other.high < 0.1


def test_points_pool_seeds_and_compare_equal_training(tmp_path: Path) -> None:
    records = Records(tmp_path)
    fill(OPTIONS, records)
    points = {(p.name, p.hours): p for p in read_points(make_plan(OPTIONS), records)}
    assert len(points) == 2 * 6
    point = points["causal", None]
    assert point.scratch is not None and point.pretrained is not None and point.change is not None
    assert point.scratch.cer.value == pytest.approx(np.mean(list(point.scratch.cer_by_seed.values())))
    assert point.change.value == pytest.approx(point.pretrained.cer.value / point.scratch.cer.value - 1)
    assert point.change.low < point.change.value < point.change.high < 0
    assert point.scratch.cer_reference is not None and point.scratch.cer_reference.low > 0
    offline = points["bidirectional", None]
    assert offline.compute is None and np.isinf(offline.latency()) and offline.scratch is not None
    assert offline.scratch.cer_reference is None
    assert points["dynamic: full", 0.5].train_hours == 0.5


def test_seen_and_unseen_speakers_are_scored_separately(tmp_path: Path) -> None:
    records, options = Records(tmp_path), FrontierOptions(presets=("causal",))
    plan = fill(options, records)
    # The speaker of the last one is unknown.
    lines = [["a", 1, 10, 1, 2, True], ["b", 8, 10, 2, 2, False], ["c", 6, 10, 1, 2, None]]
    for stage in plan:
        if stage.kind == "evaluate":
            records.write(stage, 1.0, {**evaluation(0.4, "causal"), "utterances": lines}, "0123abc")
    system = read_points(plan, records)[0].scratch
    assert system is not None
    assert (system.cer.value, system.cer_seen, system.cer_unseen) == pytest.approx((0.5, 0.1, 0.8))
    assert system.wer.value == pytest.approx(4 / 6)


def test_points_are_sorted_by_latency(tmp_path: Path) -> None:
    options = FrontierOptions(
        presets=("bidirectional", "dynamic", "lookahead80", "causal"), contexts=("full", "causal")
    )
    records = Records(tmp_path)
    points = read_points(fill(options, records), records)
    assert [p.name for p in points] == ["causal", "lookahead80", "bidirectional", "dynamic: causal", "dynamic: full"]


def test_probe_table_lists_input_best_and_last_layer(tmp_path: Path) -> None:
    records, options = Records(tmp_path), FrontierOptions(presets=("causal",), probes=True)
    fill(options, records)
    text = as_markdown(report.gather(options, records, "the command"))
    assert "| `causal` | 0 | 50.0 % | 40.0 % (1) | 35.0 % | 50.0 % | 60.0 % (1) | 65.0 % | – | – | – |" in text


def test_report_writes_tables_and_plots(tmp_path: Path) -> None:
    records = Records(tmp_path)
    fill(OPTIONS, records)
    records.keep_options(OPTIONS, "streamnest frontier --presets ...")
    assert main("", Path("root"), ["--out", str(tmp_path), "--report"]) == 0
    for name in ("frontier.png", "labels.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = json.loads((tmp_path / "frontier.json").read_text())
    assert len(lines) == len(found["points"]) == 24 and found["done"] == found["planned"] == 48
    causal = next(p for p in found["points"] if (p["preset"], p["hours"], p["pretrained"]) == ("causal", None, True))
    assert causal["latency_mean_ms"] == 22.5 and causal["compute_p50_ms"] == 4.0 and causal["seeds"] == 2
    assert set(causal["cer_by_seed"]) == {"0", "1"}
    text = (tmp_path / "frontier.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `causal` | 22.5 / 42.5 ms | 4.0 / 6.0 ms"))
    assert f"| {100 * causal['cer']:.1f} ({100 * causal['cer_low']:.1f} to {100 * causal['cer_high']:.1f}) |" in row
    assert f"{100 * causal['cer_change_by_pretraining']:+.1f} %" in row and "Partial" not in text
    assert "streamnest frontier --presets ..." in text and "| 50.0 % | 40.0 % (1) | 35.0 % |" in text
    assert "| `bidirectional` | whole utterance | – |" in text and "| `causal` | 30 min |" in text


def test_single_label_panel_is_as_wide_as_its_title(tmp_path: Path) -> None:
    options = FrontierOptions(presets=("causal",), hours=(0.5, None))
    records = Records(tmp_path)
    fill(options, records)
    found = report.gather(options, records)
    figure = plot_labels(found.points, "Quality against labels", report.note(found))
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if report.note(found) in text.get_text() or text in figure.texts]
    assert len(texts) > 1 and all(text.get_window_extent().x1 < figure.bbox.x1 for text in texts)


def test_missing_evaluations_are_reported_and_left_blank(tmp_path: Path) -> None:
    records, options = Records(tmp_path), FrontierOptions(presets=("causal", "bidirectional"))
    for stage in fill(options, records):
        if stage.pretrained or stage.preset == "bidirectional":
            records.path(stage).unlink()
    found = report.gather(options, records)
    report.write(found, tmp_path)
    text = (tmp_path / "frontier.md").read_text()
    assert "**Partial: 1 of 4 evaluations.**" in text and "PARTIAL" in report.note(found)
    row = next(line for line in text.splitlines() if line.startswith("| `causal` | 22.5"))
    assert row.count("|") == 6 and "CER pretrained" not in text and "bidirectional" not in text


def test_consumed_hours_and_learning_curves_are_reported(tmp_path: Path) -> None:
    options = FrontierOptions(presets=("causal",), finetune_hours=9.0)
    records = Records(tmp_path)
    for stage in fill(options, records):
        hours = {"pretrain": 40.2, "finetune": 9.01}.get(stage.kind)
        if stage.kind == "pretrain":  # as of an earlier version, whose records have no hours
            records.folder(stage).mkdir(parents=True)
            (records.folder(stage) / "summary.json").write_text(json.dumps({"hours_seen": hours}))
        if stage.kind == "finetune":
            records.write(stage, 1.0, {"steps": 1, "hours": hours}, None)
            write_run(records.folder(stage), [], task="ctc")
            text = "step,train/hours,val/cer\n0,0,1.0\n9,3,0.6\n19,6,0.5\n29,9,0.4\n"
            (records.folder(stage) / "csv/metrics.csv").write_text(text)
    found = report.gather(options, records)
    text = as_markdown(found)
    assert "pretraining 150 updates (40.2 h of audio), CTC 9 h of audio, seeds 0" in text
    assert "| 40.2 h + 9.01 h |" in text
    assert (
        "| `causal` | pretrained | 40.0% after 9.00 h; -33.3 % relative over the last 6.00 h: still falling |" in text
    )
    assert report.note(found).startswith("pretraining 40.2 h of audio, CTC 9 h of audio;")
    stored = {row["pretrained"]: row for row in json.loads(as_json(found))["points"]}
    assert stored[True]["pretrain_hours_consumed"] == 40.2 and "pretrain_hours_consumed" not in stored[False]
    assert tmp_path / "curves.png" in report.write(found, tmp_path)
    assert budget_text(options, read_report(tmp_path / "frontier.json").points) in text


def test_results_of_several_code_versions_are_reported(tmp_path: Path) -> None:
    records, options = Records(tmp_path), FrontierOptions(presets=("causal",))
    path = records.path(fill(options, records)[0])
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": "older"}))
    report.write(report.gather(options, records), tmp_path)
    assert "several versions of the code" in (tmp_path / "frontier.md").read_text()


def test_folder_without_frontier_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("", Path("root"), ["--out", str(tmp_path), "--report"]) == 2
    assert "has no frontier" in capsys.readouterr().err


def test_frontier_plot_names_presets_at_their_exact_latency(tmp_path: Path) -> None:
    records = Records(tmp_path)
    fill(OPTIONS, records)
    figure = plot_frontier([p for p in read_points(make_plan(OPTIONS), records) if p.hours is None], "title")
    axes = figure.axes[0]
    (top,) = axes.child_axes
    names = [label.get_text() for label in top.get_xticklabels()]
    assert names == ["causal\nlimited3200", "lookahead80", "bidirectional\nfull (dynamic)"]
    ticks = {label.get_text(): place for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert list(ticks) == ["22.5", "62.5", "whole\nutterance"]
    points = {float(x) for bar in axes.containers for x in bar.lines[0].get_xdata()}
    assert points == set(ticks.values()) == set(top.get_xticks())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["from scratch", "pretrained"] and "dynamic" in labels[2] and "limited" in labels[4]


def test_plots_of_both_initializations_differ_in_gray() -> None:
    kinds = [Series([], flag, dynamic) for flag in (True, False) for dynamic in (True, False)]
    styles = [plots._style(kind) for kind in kinds]
    assert len({(style["marker"], style["ls"]) for style in styles}) == len(styles)


@pytest.mark.parametrize(("hours", "text"), [(0.1662, "10 min"), (0.998, "1 h"), (3.47, "3.5 h"), (0.5, "30 min")])
def test_label_budgets_are_rounded(hours: float, text: str) -> None:
    assert amount(hours) == text


def test_report_survives_json_round_trip(tmp_path: Path, small: report.FrontierReport) -> None:
    (tmp_path / "frontier.json").write_text(as_json(small))
    found = read_report(tmp_path / "frontier.json")
    assert as_json(found) == as_json(small) and as_markdown(found) == as_markdown(small)
    assert [p.latency("left_ms") for p in found.points] == [p.latency("left_ms") for p in small.points]


@pytest.mark.parametrize("name", ["frontier", "frontier_two_seeds", "labels", "variants"])
def test_published_results_have_the_fields_of_a_report(small: report.FrontierReport, name: str) -> None:
    now, stored = json.loads(as_json(small)), json.loads((ROOT / f"docs/data/{name}.json").read_text())
    assert stored.keys() == now.keys()
    assert all(point.keys() == now["points"][0].keys() for point in stored["points"])
    assert json.loads(as_json(read_report(ROOT / f"docs/data/{name}.json")))["points"] == stored["points"]


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> report.FrontierReport:
    """A report with a worse variant, one that equals the baseline, and one without results."""
    variants = (("short", "masking.block_size=6"), ("same", "logger=csv"), ("unknown", "augment=none"))
    options = FrontierOptions(presets=("causal",), variants=variants)
    records = Records(tmp_path_factory.mktemp("varied"))
    for stage in fill(options, records):
        if stage.variant == "short" and stage.kind == "evaluate":
            records.write(stage, 1.0, evaluation(share(stage) + 0.1, "causal"), None)
        if stage.variant == "unknown":
            records.path(stage).unlink()
    return report.gather(options, records, "the command")


def test_variants_are_compared_with_the_baseline_by_utterance(varied: report.FrontierReport) -> None:
    scratch, baseline, short, same = varied.variants
    assert [v.name for v in varied.variants] == ["scratch", None, "short", "same"] and baseline.change is None
    assert short.change is not None and 0 < short.change.low < short.change.value < short.change.high
    assert short.change.value == pytest.approx(short.system.cer.value / baseline.system.cer.value - 1)
    assert same.change is not None and same.change.value == 0 == same.change.high
    assert scratch.change is not None and scratch.change.low > 0
    assert [point.pretrained.cer for point in varied.points if point.pretrained] == [baseline.system.cer], (
        "variants are not points"
    )


def test_report_without_variants_has_no_such_section(small: report.FrontierReport) -> None:
    assert small.variants == [] and "Variants" not in as_markdown(small)


def test_variants_are_in_table_plot_and_json(tmp_path: Path, varied: report.FrontierReport) -> None:
    assert tmp_path / "variants.png" in report.write(varied, tmp_path)
    page = (tmp_path / "frontier.md").read_text()
    assert "short: `masking.block_size=6`" in page and "none (from scratch)" in page and "unknown:" not in page
    assert as_json(read_report(tmp_path / "frontier.json")) == as_json(varied)
    figure = plot_variants(varied.variants, "Variants")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["same", "short", "no pretraining"]


@pytest.mark.parametrize("text", ["{}", "[]", "not json"])
def test_invalid_report_is_a_user_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "frontier.json").write_text(text)
    with pytest.raises(UserError, match=r"not a frontier\.json of"):
        read_report(tmp_path / "frontier.json")


def test_effect_and_delay_plots_show_stored_values(small: report.FrontierReport) -> None:
    points = small.largest
    gain, cost = plot_effects(points, "title").axes
    changes = {p.name: p.change.value for p in points if p.change}
    names = [t.get_text() for t in gain.get_yticklabels()]
    assert names == ["dynamic: full", "bidirectional", "limited3200", "causal"]
    drawn = [float(bar.lines[0].get_xdata()[0]) for bar in gain.containers]
    assert drawn == pytest.approx([100 * changes[name] for name in names])
    assert len(cost.containers) == 2 * (len(points) - 1)
    waits, computing = plot_delays(points, "title").axes[0].containers[:2]
    assert (waits[0].get_width(), computing[0].get_x(), computing[0].get_width()) == (22.5, 22.5, 4.0)
