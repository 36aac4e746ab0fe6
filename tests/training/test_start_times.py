"""Times of the stages before the first step."""

from __future__ import annotations

import re

import pytest

from streamnest.console import starting
from streamnest.training.start_times import StartTimes


def test_stages_add_up_to_the_time_until_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StartTimes, "_used", False)
    clock = iter([10.0, 20.0, 23.0, 30.0])
    monkeypatch.setattr("streamnest.training.start_times.BEGAN", 4.0)
    monkeypatch.setattr("streamnest.training.start_times.time.monotonic", lambda: next(clock))
    times = StartTimes()
    with times.stage("proof"):
        pass
    total, *parts = map(float, re.findall(r"\d+\.\d", times.describe()))
    assert total == 26.0 == sum(parts)
    assert parts == [6.0, 3.0, 17.0]


def test_the_second_job_of_a_sweep_has_no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StartTimes, "_used", True)
    assert not StartTimes().stages
    assert starting.BEGAN > 0
