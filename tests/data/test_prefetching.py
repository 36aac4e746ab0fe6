"""Batches that a thread loads ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from streamnest.data.loading import Prefetched


def _numbers(count: int, fails: bool = False) -> Iterator[Any]:
    yield from range(count)
    if fails:
        raise OSError("no such file")


def test_prefetched_batches_are_those_of_the_iterator() -> None:
    """The order is the same, also with fewer batches in memory than there are."""
    assert list(Prefetched(_numbers(20), most=2)) == list(range(20))


def test_error_of_loading_is_raised_after_earlier_batches() -> None:
    """A file that cannot be read ends the command, not only the thread."""
    batches = iter(Prefetched(_numbers(2, fails=True)))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="no such file"):
        next(batches)


def test_prefetching_is_bounded_and_stops_when_closed() -> None:
    """The thread waits for the consumer, and ends without one."""
    taken: list[int] = []
    prefetched = Prefetched((taken.append(n) or n for n in range(1000)), most=3)  # type: ignore[misc, func-returns-value]
    until = time.monotonic() + 5
    while len(taken) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(taken) == 4  # one waits for a place
    prefetched.close()
    while any(thread.name == "prefetch" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
    assert len(taken) == 4
