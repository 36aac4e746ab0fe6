"""Waits for another process."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(happened: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Polls a condition; returns whether it became true before the timeout."""
    end = time.monotonic() + seconds
    while not (found := happened()) and time.monotonic() < end:
        time.sleep(0.1)
    return found
