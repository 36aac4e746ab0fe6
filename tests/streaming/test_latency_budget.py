"""The budget of average latency holds for all wanted latencies, and ranks are relative to recent scores."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnest.encoder.schedule import Chunk
from streamnest.streaming.adaptive.budget import Budget, Ranks
from streamnest.streaming.adaptive.contexts import AdaptiveContext

# The contexts of encoder=dynamic.
CONTEXTS = [AdaptiveContext(f"{n}", Chunk.of(n, 0), 2.5 + 20 * n, 2.5 + 40 * n, False) for n in (1, 2, 3, 9, 27)]


@given(
    wanted=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300),
    ranked=st.booleans(),
    budget=st.floats(22.5, 700),
)
@settings(max_examples=60)
def test_the_running_average_never_exceeds_the_budget(wanted: list[float], ranked: bool, budget: float) -> None:
    account, ranks, frames, latency = Budget(CONTEXTS, budget), Ranks(), 0, 0.0
    for value in wanted:
        choice = account.choose(account.scale_ms * ranks.rank(value) if ranked else value)
        frames, latency = frames + choice.frames, latency + choice.frames * choice.mean_ms
        assert latency <= budget * frames * (1 + 1e-9)


def test_random_ranks_use_most_of_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    for budget in (60.0, 120.0, 300.0):
        account = Budget(CONTEXTS, budget)
        choices = [account.choose(account.scale_ms * float(torch.rand((), generator=generator))) for _ in range(3000)]
        frames = sum(choice.frames for choice in choices)
        assert 0.97 * budget < sum(c.frames * c.mean_ms for c in choices) / frames <= budget
        assert len(set(choices)) >= 3


def test_ranks_are_relative_to_the_recent_scores() -> None:
    ranks = Ranks(window=3)
    assert [ranks.rank(score) for score in (5.0, 7.0, 6.0, 6.0, math.nan)] == [0.5, 1.0, 0.5, 0.5, 0.5]
    assert [ranks.rank(score) for score in (100.0, 101.0, 102.0, 99.0)] == [1.0, 1.0, 1.0, 0.0]
