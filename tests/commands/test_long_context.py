"""`benchmarks/long_context.py` with tiny arguments."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
from inprocess import load

SMALL = ["--size", "tiny", "--runs", "1", "--batch-seconds", "1", "--factors", "8", "--left", "320"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("long_context", "benchmarks")
    monkeypatch.setattr(module, "keep_freed_memory", lambda: None)
    return module


def test_lengths_that_exceed_the_memory_are_left_out(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(benchmark, "peak_memory", lambda _args, _factor, seconds, backward: seconds * (1 + backward))
    assert benchmark.main([*SMALL, "--seconds", "2", "1", "0.5", "--most-gb", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.findall(r"[\d.]+ s\b", lines[2]) == ["0.5 s", "1 s", "2 s"]
    forward, both = (next(line for line in lines if f"{name}, ms" in line) for name in ("forward", "backward"))
    assert len(re.findall(r"[\d.]+ \(±", forward)) == 3 and len(re.findall(r"[\d.]+ \(±", both)) == 2
    assert any(line.split("│")[2:5] for line in lines if "forward, MB" in line)


def test_windows_are_compared_with_one_mask(benchmark: ModuleType, capsys: Any) -> None:
    assert benchmark.main([*SMALL, "--seconds", "1", "--against-mask"]) == 0
    assert len(re.findall(r"│ +\d\.\d\d │", capsys.readouterr().out)) == 2


def test_the_memory_of_a_run_is_measured_in_its_process(benchmark: ModuleType, capsys: Any) -> None:
    assert benchmark.main([*SMALL, "--memory-of", "8", "1", "1"]) == 0
    assert 0 <= float(capsys.readouterr().out) < 1
