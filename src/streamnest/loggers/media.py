"""Plots and audio of a validation for the loggers that show them: W&B, TensorBoard and MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from matplotlib.image import imread
from numpy.typing import NDArray

from streamnest.loggers.wandb import UnfailingWandbLogger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Media:
    """Plots and audio of one validation.

    Attributes:
        step: optimizer updates so far.
        plots: PNG files by name.
        code_counts: frequency of each code in the training set, `(classes,)`; None for other tasks than pretraining.
        audio: mono audio by name.
        rate: sampling rate of the audio in Hz.
    """

    step: int
    plots: Mapping[str, Path]
    code_counts: NDArray[np.float32] | None
    audio: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    rate: int = 16_000


def log_media(logger: Logger, media: Media) -> None:
    """Sends plots and audio to a logger that shows them; a failure is reported and never stops the run."""
    try:
        if isinstance(logger, UnfailingWandbLogger):
            _to_wandb(logger, media)
        elif isinstance(logger, TensorBoardLogger):
            for name, path in media.plots.items():
                logger.experiment.add_image(f"plots/{name}", imread(path)[..., :3], media.step, dataformats="HWC")
            for name, sound in media.audio.items():
                logger.experiment.add_audio(name, sound, media.step, sample_rate=media.rate)
        elif isinstance(logger, MLFlowLogger) and logger.run_id:
            for path in media.plots.values():
                logger.experiment.log_artifact(logger.run_id, str(path), "plots")
    except Exception as error:  # servers and libraries raise errors of many kinds
        log.warning("plots of step %d were not sent to %s: %s", media.step, type(logger).__name__, error)


def _to_wandb(logger: UnfailingWandbLogger, media: Media) -> None:
    values: dict[str, Any] = {f"plots/{name}": wandb.Image(str(path)) for name, path in media.plots.items()}
    counts = media.code_counts
    if counts is not None:
        # W&B plots at most 512 bins, so a bin is a group of neighboring codes.
        histogram = np.histogram(np.arange(len(counts)), bins=min(512, len(counts)), weights=counts)
        values["health/code_counts"] = wandb.Histogram(np_histogram=histogram)
    logger.log_media({**values, "trainer/global_step": media.step})
    if media.audio:
        logger.log_media({name: wandb.Audio(sound, media.rate) for name, sound in media.audio.items()})
