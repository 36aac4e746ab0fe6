"""W&B logger whose failures never stop the run."""

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
    """Neither stops a run nor delays it.

    - If the server does not accept the run within the `init_timeout` of the settings, the run is written offline, and a
      warning contains the command that uploads it.
    - Later failures are counted by kind, with one warning per kind. A separate process of W&B sends the data, which is
      written to disk first.
    - `finish` waits until everything is sent, but at most the `finish_timeout` of the settings.

    Args:
        args: arguments of `WandbLogger`.
        kwargs: arguments of `WandbLogger`; they should include `settings` with both timeouts and
            `finish_timeout_raises`.

    Attributes:
        failures: number of failed calls by kind.
        refused: reason why the server did not accept the run; None if it did.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: Counter[str] = Counter()
        self.refused: str | None = None
        self._kept_back = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, created at first use."""
        if self._experiment is None:
            try:
                return super().experiment
            except Exception as error:
                self._go_offline(error)
        try:
            return super().experiment
        except Exception:
            return DummyExperiment()  # not even a disabled run can start, as on a full disk

    @property
    def folder(self) -> Path:
        """Folder of the W&B run."""
        return Path(self.experiment.dir).parent

    @property
    def must_be_synced(self) -> bool:
        """True if a part of the run is on disk only."""
        return bool(self._offline or self._kept_back)

    @property
    def problems(self) -> list[str]:
        """Failures, for the summary."""
        offline = [f"written offline, because the server did not accept it ({self.refused})"] if self.refused else []
        kept = ["not everything was sent"] if self._kept_back else []
        return [*offline, *kept, *(f"{count} x {what} failed" for what, count in self.failures.items())]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Implements `WandbLogger`."""
        self._attempt("logging metrics", super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Implements `WandbLogger`."""
        self._attempt("logging the config", super().log_hyperparams, params)

    def log_media(self, values: dict[str, Any]) -> None:
        """Logs images, histograms and audio, without a step of their own."""
        self._attempt("logging plots", lambda: self.experiment.log(values))

    def summarize(self, values: dict[str, Any]) -> None:
        """Sets the columns of this run in the table of runs."""
        self._attempt("logging the summary", lambda: self.experiment.summary.update(values))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Implements `WandbLogger`."""
        self._attempt("logging a checkpoint", super().after_save_checkpoint, checkpoint_callback)

    def finalize(self, status: str) -> None:
        """Implements `WandbLogger`."""
        self._attempt("logging checkpoints", super().finalize, status)

    def finish(self) -> None:
        """Finishes the run; nothing can be logged afterwards."""
        run = self._experiment
        if run is None:
            return
        before = self.failures.total()
        self._attempt("finishing the run", run.finish)
        self._kept_back = not self._offline and (self.failures.total() > before or _gave_up(run))
        if self._kept_back:
            log.warning("W&B: not everything was sent, but all of it is on disk: %s", sync_command(self.folder))

    def _attempt(self, what: str, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:
            self.failures[what] += 1
            if self.failures[what] == 1:
                log.warning("W&B: %s failed: %s; training continues, the summary has the count", what, _one_line(error))

    def _go_offline(self, error: Exception) -> None:
        self.refused = _one_line(error)
        self._wandb_init["mode"] = "offline"
        try:
            self._experiment = self._start()
        except Exception as second:
            log.warning("W&B: cannot be used at all (%s): nothing is logged to it", _one_line(second))
            self.refused, self._wandb_init["mode"], self._offline = _one_line(second), "disabled", False
            return
        self._offline = True
        log.warning(
            "W&B: the server did not accept the run: %s; it is written offline: %s",
            self.refused,
            sync_command(self.folder),
        )

    def _start(self) -> Any:
        with suppress(Exception):
            return super().experiment
        # The process that sends data to W&B may be broken since an earlier run.
        with suppress(Exception):
            wandb.teardown()
        return super().experiment


def finish_runs(loggers: Iterable[Logger]) -> None:
    """Finishes the W&B runs, so that the summary can report their failures."""
    for logger in loggers:
        if isinstance(logger, UnfailingWandbLogger):
            logger.finish()


def _gave_up(run: Any) -> bool:
    """True if W&B stopped sending, as it does when a server rejects it; only its log file reports that."""
    try:
        return b"fatal error" in Path(run.settings.log_internal).read_bytes()
    except (AttributeError, OSError, TypeError):
        return False


def _one_line(error: Exception) -> str:
    """Formats an error on one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
