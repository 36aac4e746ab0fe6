"""Loggers whose packages are extras: TensorBoard and MLflow."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

from streamnest.errors import UserError

log = logging.getLogger(__name__)


def tensorboard_logger(save_dir: str) -> TensorBoardLogger:
    """Logs to `tensorboard/` of the run folder; a continued run appends to it.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    _require("tensorboard")
    return TensorBoardLogger(save_dir, name=None, version="tensorboard", default_hp_metric=False)


class UnfailingMLFlowLogger(MLFlowLogger):
    """Never ends a run: a call that fails, because of a server or a disk, is reported once and left out."""

    _failed = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Implements `MLFlowLogger`."""
        self._attempt(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Implements `MLFlowLogger`."""
        self._attempt(super().log_hyperparams, params)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Implements `MLFlowLogger`."""
        self._attempt(super().after_save_checkpoint, checkpoint_callback)

    def finalize(self, status: str = "success") -> None:
        """Implements `MLFlowLogger`."""
        self._attempt(super().finalize, status)

    def _attempt(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:  # clients and servers raise errors of many kinds
            if not self._failed:
                log.warning("MLflow: %s; training continues, but not everything is logged", error)
            self._failed = True


def mlflow_logger(save_dir: str, tracking_uri: str | None = None, **settings: Any) -> MLFlowLogger:
    """Logs to an MLflow server, or to a database in a folder.

    Args:
        save_dir: folder of `mlflow.db`, and of `mlruns` with the plots, if there is no server.
        tracking_uri: address of a server; None takes `MLFLOW_TRACKING_URI` from the environment.
        settings: further arguments of `MLFlowLogger`.

    Raises:
        UserError: if MLflow is not installed.
    """
    _require("mlflow")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return UnfailingMLFlowLogger(tracking_uri=uri, **settings)
    folder = Path(save_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = (folder / "mlruns").as_uri()
    return UnfailingMLFlowLogger(
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", artifact_location=artifacts, **settings
    )


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"logger={package} needs a package that is not installed: pip install -e '.[{package}]'")
