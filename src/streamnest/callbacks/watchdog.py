"""Reports a run that makes no progress, with the stack traces of its threads."""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning import Callback

log = logging.getLogger(__name__)


class Watchdog(Callback):
    """Logs a warning when nothing has happened for a while, and again after each further such time.

    The stack traces of all threads, which show what the process waits for, are appended to `stalled_rank_N.txt`.

    Args:
        dirpath: folder of the file.
        seconds: time without a batch, a validation batch or a checkpoint before the warning; 0 turns it off.
    """

    def __init__(self, dirpath: str | Path, seconds: float = 300.0) -> None:
        self.dirpath, self.seconds = Path(dirpath), seconds
        self._last = time.monotonic()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the thread that watches."""
        self._progress()
        if self.seconds > 0:
            self._end.clear()
            self._thread = threading.Thread(target=self._watch, args=(trainer.global_rank,), daemon=True)
            self._thread.start()

    def _progress(self, *args: Any) -> None:
        """Restarts the clock."""
        self._last = time.monotonic()

    on_train_batch_start = on_train_batch_end = _progress  # type: ignore[assignment]
    on_validation_start = on_validation_batch_end = on_validation_end = _progress  # type: ignore[assignment]
    on_save_checkpoint = _progress  # type: ignore[assignment]

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Ends the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, rank: int) -> None:
        reported = 0.0
        while not self._end.wait(min(1.0, self.seconds / 4)):
            stalled = time.monotonic() - self._last
            reported = 0.0 if stalled < self.seconds else reported
            if stalled >= reported + self.seconds:
                reported = stalled
                log.warning("rank %d: no progress for %.0f s; %s", rank, stalled, self._dump(rank))

    def _dump(self, rank: int) -> str:
        path = self.dirpath / f"stalled_rank_{rank}.txt"
        try:
            with path.open("a", encoding="utf-8") as file:
                faulthandler.dump_traceback(file)
        except OSError as error:
            return f"stack traces could not be written: {error}"
        return f"stack traces of all threads: {path}"
