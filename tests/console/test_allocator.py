"""Settings of the allocator for training."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from streamnest.console.allocator import keep_freed_memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Calls of mallopt, in an environment without settings."""
    made: list[tuple[int, int]] = []
    for name in ("MALLOC_ARENA_MAX", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *call: made.append(call)))
    return made


def test_freed_memory_is_kept(calls: list[tuple[int, int]]) -> None:
    keep_freed_memory()
    assert dict(calls) == {-4: 0, -1: -1, -2: 64 << 20}


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "LD_PRELOAD"])
def test_settings_of_the_user_are_kept(
    calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    keep_freed_memory()
    assert not calls


def test_other_libraries_are_left_alone(calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    keep_freed_memory()
    assert not calls
