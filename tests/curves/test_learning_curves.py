"""Learning curves: trend, records of a run, and plots."""

from __future__ import annotations

import numpy as np
import pytest

from streamnest.curves import LearningCurve, plot_curve_grid, plot_curves, plot_run, trend
from streamnest.curves.curve import amount, curve_of_records, describe
from streamnest.curves.plots import spread, style


def curve(values: list[float], metric: str = "val/cer", label: str = "run", **fields: object) -> LearningCurve:
    hours = tuple(10.0 * number for number in range(len(values)))
    return LearningCurve(label, metric, hours, tuple(values), **fields)  # type: ignore[arg-type]


def test_a_falling_curve_is_reported_with_its_slope() -> None:
    line = curve([1.0, *(0.5 - 0.01 * number for number in range(9))])
    found = trend(line)
    assert found is not None and found.clear and found.hours == 30.0
    assert found.relative == pytest.approx(-0.03 / 0.45)
    assert describe(line) == "42.0% after 90.0 h; -6.7 % relative over the last 30.0 h: still falling"
    assert describe(curve([0.0, 1.0, 1.1, 1.2], "val/gain")).endswith("+0.200 nats over the last 20.0 h: still rising")
    assert describe(curve([0.9, 0.4, 0.45, 0.5])).endswith(": rising")


def test_noise_and_small_changes_are_no_clear_trend() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 30)
    for values in ([1.0, *(0.5 + noise)], [1.0, *(0.5 - 0.0004 * np.arange(9))]):
        assert describe(curve(list(values))).endswith("no clear trend")
    assert describe(curve([1.0, 0.0, 0.0, 0.0])).endswith("; +0.0 % relative over the last 20.0 h: no clear trend")
    # Relative changes of a distance mean nothing near 0.
    assert describe(curve([0.0, 0.001, 0.002, 0.003], "val/gain")).endswith("no clear trend")


def test_two_validations_after_the_first_show_no_trend() -> None:
    assert trend(curve([1.0, 0.6, 0.5])) is None and "too few validations" in describe(curve([1.0, 0.6, 0.5]))
    assert trend(curve([1.0, float("nan"), 0.6, 0.5])) is None
    assert trend(LearningCurve("repeated", "val/cer", (0.0, 9.0, 9.0, 9.0), (1.0, 0.6, 0.5, 0.4))) is None
    assert [amount(hours) for hours in (0.25, 9.5, 12.5, 120.0)] == ["0.25 h", "9.50 h", "12.5 h", "120 h"]


def test_records_give_hours_interval_and_baseline() -> None:
    first = {"step": 0.0, "val/cer": 0.9, "val/loss": 6.0}  # of an earlier version, without hours
    unknown = {"step": 5.0, "val/cer": 0.8}
    last = {"step": 9.0, "hours": 2.5, "val/cer": 0.4, "val/cer_low": 0.3, "val/cer_high": 0.5}
    diverged = {"step": 7.0, "hours": 2.0, "val/cer": float("nan")}
    made = curve_of_records("a", "val/cer", [first, unknown, diverged, last])
    assert made == LearningCurve("a", "val/cer", (0.0, 2.5), (0.9, 0.4), (0.3, 0.5))
    loss = curve_of_records("a", "val/loss", [first, {**last, "val/loss": 5.0, "val/unigram": 5.5}])
    assert loss is not None and loss.baseline == 5.5 and loss.interval is None
    assert curve_of_records("a", "val/der", [first, last]) is None


def test_a_plot_shows_final_value_and_interval_per_run() -> None:
    curves = [curve([0.9, 0.6, 0.5], label="a", interval=(0.45, 0.55)), curve([0.9, 0.7, 0.519], label="b")]
    figure = plot_curves(curves)
    axes = figure.axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()[:2]] == [
        [90, 60, 50],
        pytest.approx([90, 70, 51.9], abs=0.1),
    ]
    assert [text.get_text() for text in axes.texts] == ["50.0%", "51.9%"] and len(axes.containers) == 1
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not boxes[0].overlaps(boxes[1])
    assert axes.get_xlabel() == "audio consumed in training (h)" and axes.get_ylabel() == "character error rate (%)"
    # A run that was only validated before training has no place on a logarithmic axis.
    logarithmic = plot_curves([curve([0.9], label="new"), *curves], log_hours=True, log_values=True)
    assert list(logarithmic.axes[0].get_lines()[0].get_xdata()) == [10.0, 20.0]
    named = [text.get_text().partition(":")[0] for text in logarithmic.legends[0].get_texts()]
    assert named == [line.get_label() for line in logarithmic.axes[0].get_lines()[:2]] == ["a", "b"]
    assert plot_curves([curve([0.9])], log_hours=True).axes[0].get_xscale() == "linear"
    gains = plot_curves([curve([-0.1, 0.2], "val/gain")], log_hours=True, log_values=True).axes[0]
    assert (gains.get_xscale(), gains.get_yscale()) == ("log", "linear")


def test_panels_share_the_legend_of_their_seeds() -> None:
    panels = {
        preset: [(curve([0.9, 0.5], label=f"pretrained, seed {seed}"), style(0)) for seed in (0, 1)]
        for preset in ("causal", "lookahead40")
    }
    figure = plot_curve_grid(panels, "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pretrained"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["causal", "lookahead40"]
    run = plot_run([curve([9.0, 8.0], "val/loss", baseline=8.5), curve([-0.5, 0.5], "val/gain")], "run")
    assert len(run.axes) == 2 and list(run.axes[0].get_lines()[-1].get_ydata()) == [8.5, 8.5]


def test_labels_are_moved_apart_in_their_order() -> None:
    moved = spread([30.0, 0.0, 31.0], 12.0)
    assert np.diff(np.sort(moved)).min() >= 12 and list(np.argsort(moved)) == [1, 0, 2]
    assert moved.mean() == pytest.approx(61 / 3)
