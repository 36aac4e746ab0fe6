"""Steps of an engine in tests."""

from __future__ import annotations

from streamnest.serving.engine import Engine
from streamnest.serving.stream import Result

MOST_STEPS = 1000


def stepped(engine: Engine) -> list[Result]:
    """Runs the steps that are due, of which there may be `MOST_STEPS`; returns their results."""
    results = list[Result]()
    for _ in range(MOST_STEPS):
        if not engine.due:
            return results
        results += engine.step()
    raise AssertionError(f"steps are still due after {MOST_STEPS}")
