"""Weights & Biases as a witness: whatever happens to it, the run goes on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

from streamnest.console.entry_point import sync_command

log = logging.getLogger(__name__)


class UnfailingWandbLogger(WandbLogger):
    """Neither ends a run nor holds it up.

    - A server that does not take the run, within the `init_timeout` of the settings: the run is written offline, with a
      warning that says how to upload it.
    - What fails later is counted by kind and warned about once a kind. Sending happens in a process of W&B's own, and
      everything is on disk first.
    - `finish` waits for the rest to be sent, for the `finish_timeout` of the settings at most.

    Args:
        args: of `WandbLogger`.
        kwargs: of `WandbLogger`; `settings` with both timeouts, and `finish_timeout_raises`, should be among them.

    Attributes:
        failures: number of failed calls by kind.
        refused: why the server did not take the run; None where it did.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: Counter[str] = Counter()
        self.refused: str | None = None
        self._kept_back = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; made at the first use."""
        if self._experiment is None:
            try:
                return super().experiment
            except Exception as error:
                self._go_offline(error)
        try:
            return super().experiment
        except Exception:
            return DummyExperiment()  # not even a run that is written nowhere can begin, as on a full disk

    @property
    def folder(self) -> Path:
        """Where W&B keeps the run."""
        return Path(self.experiment.dir).parent

    @property
    def must_be_synced(self) -> bool:
        """Whether some of the run is on disk only."""
        return bool(self._offline or self._kept_back)

    @property
    def problems(self) -> list[str]:
        """What went wrong, for the summary."""
        offline = [f"written offline, as the server did not take the run ({self.refused})"] if self.refused else []
        kept = ["not everything was sent"] if self._kept_back else []
        return [*offline, *kept, *(f"{count} x {what} failed" for what, count in self.failures.items())]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See `WandbLogger`."""
        self._attempt("logging metrics", super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """See `WandbLogger`."""
        self._attempt("logging the config", super().log_hyperparams, params)

    def log_media(self, values: dict[str, Any]) -> None:
        """Logs pictures, histograms and the like, which belong to no step of their own."""
        self._attempt("logging pictures", lambda: self.experiment.log(values))

    def summarize(self, values: dict[str, Any]) -> None:
        """Sets what the table of runs shows of this one."""
        self._attempt("logging the summary", lambda: self.experiment.summary.update(values))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """See `WandbLogger`."""
        self._attempt("logging a checkpoint", super().after_save_checkpoint, checkpoint_callback)

    def finalize(self, status: str) -> None:
        """See `WandbLogger`."""
        self._attempt("logging checkpoints", super().finalize, status)

    def finish(self) -> None:
        """Ends the run; nothing can be logged after it."""
        run = self._experiment
        if run is None:
            return
        before = self.failures.total()
        self._attempt("finishing the run", run.finish)
        self._kept_back = not self._offline and (self.failures.total() > before or _gave_up(run))
        if self._kept_back:
            log.warning("W&B: not everything was sent; all of it is on disk: %s", sync_command(self.folder))

    def _attempt(self, what: str, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:
            self.failures[what] += 1
            if self.failures[what] == 1:
                log.warning("W&B: %s failed: %s; the run goes on, and the summary counts", what, _words(error))

    def _go_offline(self, error: Exception) -> None:
        self.refused = _words(error)
        self._wandb_init["mode"] = "offline"
        try:
            self._experiment = self._start()
        except Exception as second:
            log.warning("W&B: cannot be used at all (%s): nothing is logged to it", _words(second))
            self.refused, self._wandb_init["mode"], self._offline = _words(second), "disabled", False
            return
        self._offline = True
        log.warning(
            "W&B: the server did not take the run: %s; it is written offline: %s",
            self.refused,
            sync_command(self.folder),
        )

    def _start(self) -> Any:
        with suppress(Exception):
            return super().experiment
        # The process that W&B sends from may be broken since an earlier run.
        with suppress(Exception):
            wandb.teardown()
        return super().experiment


def finish_runs(loggers: Iterable[Logger]) -> None:
    """Ends what W&B has of a run, so that the summary can tell how it went."""
    for logger in loggers:
        if isinstance(logger, UnfailingWandbLogger):
            logger.finish()


def _gave_up(run: Any) -> bool:
    """Whether W&B stopped sending, as it does when a server forbids it; it tells this to its log only."""
    try:
        return b"fatal error" in Path(run.settings.log_internal).read_bytes()
    except (AttributeError, OSError, TypeError):
        return False


def _words(error: Exception) -> str:
    """An error in a line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
