"""Loggers of runs."""

from streamnest.loggers.build import csv_logger, wandb_logger
from streamnest.loggers.optional import mlflow_logger, tensorboard_logger

__all__ = ["csv_logger", "mlflow_logger", "tensorboard_logger", "wandb_logger"]
