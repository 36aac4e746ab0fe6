"""Says what a stalled run waits for."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import lightning as L
from lightning import Callback

log = logging.getLogger(__name__)

_DATA = "data: the next batch has not come (slow storage, a dead worker, data.num_workers too low)"
_STEP = "a training step: computing, or another rank that has not reached the same step"
_VALIDATION = "validation: its data, computing, or another rank"
_DISK = "a checkpoint: the disk it is written to"


class Watchdog(Callback):
    """Logs what the run waits for when nothing has happened for a while, and again each time as long has passed.

    Args:
        seconds: without progress before it speaks; 0 is never.
    """

    def __init__(self, seconds: float = 300.0) -> None:
        self.seconds = seconds
        self._waits, self._since, self._rank = "", time.monotonic(), 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the thread that watches."""
        self._rank = trainer.global_rank
        self._note(_DATA)
        if self.seconds > 0:
            self._end.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def on_train_batch_start(self, *args: Any) -> None:
        """A batch is there."""
        self._note(_STEP)

    def on_train_batch_end(self, *args: Any) -> None:
        """A step is done."""
        self._note(_DATA)

    def on_validation_start(self, *args: Any) -> None:
        """Validation begins."""
        self._note(_VALIDATION)

    def on_validation_batch_end(self, *args: Any) -> None:
        """Validation moves."""
        self._note(_VALIDATION)

    def on_validation_end(self, *args: Any) -> None:
        """Back to training."""
        self._note(_DATA)

    def on_save_checkpoint(self, *args: Any) -> None:
        """A checkpoint is about to be written."""
        self._note(_DISK)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Ends the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _note(self, waits: str) -> None:
        self._waits, self._since = waits, time.monotonic()

    def _watch(self) -> None:
        spoke = 0.0
        while not self._end.wait(min(1.0, self.seconds / 4)):
            stalled = time.monotonic() - self._since
            spoke = 0.0 if stalled < self.seconds else spoke
            if stalled >= spoke + self.seconds:
                spoke = stalled
                log.warning("rank %d has waited %.0f s for %s", self._rank, stalled, self._waits)
