"""Waiting for what another process does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something happens before the time is out; looks again and again."""
    end = time.monotonic() + seconds
    while not (found := happened()) and time.monotonic() < end:
        time.sleep(0.1)
    return found
