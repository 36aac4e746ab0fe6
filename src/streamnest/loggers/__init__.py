"""Loggers of runs."""

from streamnest.loggers.build import csv_logger, wandb_logger

__all__ = ["csv_logger", "wandb_logger"]
