"""Weights & Biases without prompts, and CSV files that a continued run does not overwrite."""

from __future__ import annotations

import csv
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.loggers.wandb import UnfailingWandbLogger

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str,
    offline: bool = True,
    project: str = "streamnest",
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    init_timeout: float = 60.0,
    finish_timeout: float = 60.0,
    **settings: Any,
) -> UnfailingWandbLogger:
    """Builds a logger that never prompts, never prints over the progress bar, and groups the jobs of a multirun.

    Its failures never stop the run; see `UnfailingWandbLogger`.

    Args:
        save_dir: folder of the run, in which W&B creates `wandb/`.
        offline: log to files only, which `wandb sync` uploads later. `WANDB_MODE` in the environment takes precedence.
        project: W&B project.
        name: name of the run.
        group: group of the run; None is the sweep folder in a multirun, otherwise `WANDB_RUN_GROUP`.
        tags: tags of the run.
        init_timeout: seconds that the server has to accept the run before it is written offline.
        finish_timeout: seconds to wait at the end for data that is not sent yet; it stays on disk.
        settings: further arguments of `WandbLogger`.

    Raises:
        UserError: if it is online without an account, for which W&B would prompt.
    """
    mode = {"dryrun": "offline", "run": "online"}.get(chosen := os.environ.get("WANDB_MODE", ""), chosen)
    mode = mode if mode in ("online", "offline", "disabled") else "offline" if offline else "online"
    if mode == "online" and not wandb.api.api_key:
        raise UserError("logger=wandb needs an account: run `wandb login`, set WANDB_API_KEY, or use logger=offline")
    # Jobs of a multirun share a process, and W&B would log all of them into the run of the first.
    _finish_earlier()
    # W&B sends error reports to the same host, which would delay the exit if it does not respond.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    logger = UnfailingWandbLogger(
        save_dir=save_dir,
        offline=mode == "offline",
        project=project,
        name=name,
        group=group or _sweep_group(),
        tags=list(tags),
        mode=mode,
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            finish_timeout_raises=True,
        ),
        **settings,
    )
    # Lightning always passes it, and W&B always warns about it.
    logger._wandb_init.pop("anonymous", None)
    return logger


class UnfailingCSVLogger(CSVLogger):
    """Never stops a run: rows that cannot be written to a full disk are kept and written when there is space again."""

    _failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; a dummy as long as its folder cannot be created."""
        if self._experiment is None:
            try:
                self._fs.makedirs(self.root_dir, exist_ok=True)
                self._experiment = _Writer(log_dir=self.log_dir)
            except OSError as error:
                self._report(error)
                return DummyExperiment()
        return self._experiment

    def log_hyperparams(self, params: Any = None) -> None:
        """Implements `CSVLogger`."""
        self._attempt(super().log_hyperparams, params)

    def save(self) -> None:
        """Implements `CSVLogger`."""
        self._attempt(super().save)

    def _attempt(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._failed:
            log.warning("metrics could not be written to %s (%s); training continues", self.log_dir, error)
        self._failed = True


class _Writer(ExperimentWriter):
    """Appends rows completely or not at all, and keeps rows that are not written."""

    def save(self) -> None:
        """Writes the rows logged since the last call."""
        columns = list(self.metrics_keys)
        path = Path(self.metrics_file_path)
        try:
            if self.metrics and self._record_new_keys() and path.exists():
                self._rewrite_with_new_header(self.metrics_keys)
            self._append(path)
        except OSError:
            self.metrics_keys = columns
            raise
        self.metrics = []

    def _append(self, path: Path) -> None:
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
                if not before:
                    writer.writeheader()
                writer.writerows(self.metrics)
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)


def csv_logger(save_dir: str) -> CSVLogger:
    """Logs to `csv/metrics.csv` of the run folder; a continued run logs to `csv_2/`, then `csv_3/` and so on."""
    names = itertools.chain(["csv"], (f"csv_{number}" for number in itertools.count(2)))
    return UnfailingCSVLogger(
        save_dir, name=None, version=next(name for name in names if not (Path(save_dir) / name).exists())
    )


def _finish_earlier() -> None:
    try:
        wandb.finish()
    except Exception as error:
        log.warning("W&B: the previous run could not be finished: %s", error)


def _sweep_group() -> str | None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        sweep = Path(HydraConfig.get().sweep.dir)
        return f"{sweep.parent.name}_{sweep.name}"
    return os.environ.get("WANDB_RUN_GROUP")
