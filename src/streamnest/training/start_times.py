"""Times from the command of a run to its first step, by stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

from streamnest.console.starting import BEGAN

log = logging.getLogger(__name__)


class StartTimes(L.Callback):
    """Times the stages before the first step and logs them after it.

    In a sweep, which runs several jobs in one process, only the first job includes the imports.
    """

    _used = False

    def __init__(self) -> None:
        now = time.monotonic()
        self.stages = {} if StartTimes._used else {"imports and configuration": now - BEGAN}
        self._began, StartTimes._used = now if StartTimes._used else BEGAN, True
        self._logged = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a stage."""
        begin = time.monotonic()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - begin

    def describe(self) -> str:
        """Returns a line with the seconds until now and those of each stage."""
        total = time.monotonic() - self._began
        parts = {**self.stages, "the rest": total - sum(self.stages.values())}
        return f"first step after {total:.1f} s: " + ", ".join(f"{name} {took:.1f}" for name, took in parts.items())

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Logs the line once, on the first rank."""
        if not self._logged and trainer.is_global_zero:
            log.info("%s", self.describe())
        self._logged = True
