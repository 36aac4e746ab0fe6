"""Plots of receptive fields and latencies agree with the declared latency."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.latency import emission_delays
from streamnest.streaming.plots import plot_latencies, plot_waits
from streamnest.streaming.receptive_field import Prober, Staircase


def test_receptive_fields_end_with_the_chunk(run_config: Callable[..., DictConfig]) -> None:
    found = Prober(ready(run_config("encoder=lookahead40"))).staircase(first=4, count=4)
    assert (found.stride, found.hop) == (pytest.approx(0.04), pytest.approx(0.01))
    last = [int(row.nonzero().max()) for row in found.influence]
    # Outputs 4 and 5 end with feature 23, 6 and 7 with 31: chunks of two frames of four features.
    assert last == [23, 23, 31, 31]


def test_ages_are_relative_to_the_end_of_the_target_span() -> None:
    influence = torch.zeros(3, 32)
    for row, end in enumerate((12, 16, 20)):  # outputs 2, 3 and 4 with spans of four feature frames
        influence[row, end - 1], influence[row, end - 6], influence[row, end + 2] = 1.0, 0.5, 0.25
    ages, mean = Staircase(influence, first=2, stride=0.04, hop=0.01).by_age()
    found = {round(float(age), 2): float(value) for age, value in zip(ages, mean, strict=True) if value}
    assert found == {0.0: 1.0, 0.05: 0.5, -0.03: 0.25}
    assert (float(ages[0]), float(ages[-1])) == (pytest.approx(-0.12), pytest.approx(0.11))


@pytest.mark.parametrize(
    "overrides", [["encoder=causal"], ["encoder=lookahead80"], ["encoder=lookahead40", "encoder.style=delayed"]]
)
def test_plotted_waits_have_the_declared_mean_and_worst(
    run_config: Callable[..., DictConfig], overrides: list[str]
) -> None:
    model = ready(run_config(*overrides))
    delays, latency = emission_delays(model.encoder, model.frontend), model.latency
    axes = plot_waits(delays, latency.frame_ms, "title").axes[0]
    lines = [line.get_ydata() for line in axes.lines[: len(delays)]]
    samples = torch.cat([torch.linspace(float(a), float(b), 101, dtype=torch.float64) for a, b in lines])
    assert float(samples.mean()) == pytest.approx(latency.latency_mean_ms)
    assert float(samples.max()) == pytest.approx(latency.latency_worst_ms)
    assert axes.get_legend().get_texts()[0].get_text() == f"mean {latency.latency_mean_ms:.1f} ms"


def test_the_first_frame_of_a_chunk_waits_longer(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=lookahead40"))
    assert emission_delays(model.encoder, model.frontend) == [82.5, 42.5]


def test_latencies_are_sorted_without_offline_models(run_config: Callable[..., DictConfig]) -> None:
    names = ("bidirectional", "lookahead80", "causal")
    reports = {name: ready(run_config(f"encoder={name}")).latency for name in names}
    axes = plot_latencies(reports, own="causal").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["lookahead80", "causal"]
