"""Position of encoders that need the whole utterance on the latency axis."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from streamnest.reporting.latency_axis import LatencyAxis


def ticks(latencies: list[float]) -> dict[str, float]:
    axes = Figure().subplots()
    LatencyAxis(latencies).scale(axes)
    return {label.get_text(): place for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}


def test_whole_utterance_stands_behind_the_largest_latency() -> None:
    axis, found = LatencyAxis([math.inf, 42.5, 22.5]), ticks([math.inf, 42.5, 22.5])
    assert list(found) == ["22.5", "42.5", "whole\nutterance"]
    assert [axis.place(ms) for ms in (22.5, 42.5, math.inf)] == list(found.values())
    assert 42.5 < axis.place(math.inf) < math.inf


def test_axis_without_whole_utterance_has_no_such_tick() -> None:
    assert ticks([22.5, 42.5]) == {"22.5": 22.5, "42.5": 42.5}


def test_names_stand_at_their_latencies_and_repeated_ones_once() -> None:
    axes = Figure().subplots()
    axis = LatencyAxis([math.inf, 22.5])
    axis.scale(axes)
    axis.name(axes, {22.5: ["causal", "causal", "other"], math.inf: ["full"]})
    (top,) = axes.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["causal\nother", "full"]
    assert list(top.get_xticks()) == [22.5, axis.place(math.inf)]
