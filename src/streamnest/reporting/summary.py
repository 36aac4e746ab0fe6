"""Summary of a run as data: `summary.json` in its folder, and the summary of its W&B run."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.throughput import peak_memory_gb
from streamnest.data.datamodule import SpeechDataModule
from streamnest.encoder_task import EncoderTask
from streamnest.files.atomic_write import json_values, whole
from streamnest.loggers.wandb import UnfailingWandbLogger

log = logging.getLogger(__name__)

FILE = "summary.json"


class EndedRun(NamedTuple):
    """A run that has ended.

    Attributes:
        cfg: composed config.
        model: trained model.
        data: data module that it was trained with.
        trainer: trainer that trained it.
        history: validations of the run.
        seconds: wall time.
    """

    cfg: DictConfig
    model: EncoderTask
    data: SpeechDataModule
    trainer: L.Trainer
    history: ValHistory
    seconds: float


def summarize(run: EndedRun) -> dict[str, Any]:
    """Collects the metrics, the latency and the cost of a run.

    Returns:
        Plain data for JSON. A number that is not finite, such as the latency of an encoder that needs the whole
        utterance, becomes None.
    """
    cfg, model = run.cfg, run.model
    latency = {name.removeprefix("latency/"): value for name, value in model.latency.as_dict().items()}
    return {
        "name": cfg.name,
        "task": cfg.task.name,
        "preset": cfg.preset,
        "monitor": cfg.task.monitor,
        "step": run.trainer.global_step,
        "max_steps": run.trainer.max_steps if run.trainer.max_steps > 0 else cfg.trainer.max_steps,
        "max_audio_hours": cfg.trainer.get("max_audio_hours"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "latency": json_values(latency),
        "first": json_values(run.history.first),
        "last": json_values(run.history.last),
        "hours_seen": model.hours_seen,
        "seconds": run.seconds,
        "peak_memory_gb": peak_memory_gb(model.device),
        "skipped": dict(skipped_by_cause(run.data)),
    }


def skipped_by_cause(data: SpeechDataModule) -> Counter[str]:
    """Counts utterances that were left out at the start, or could not be read each time they were due, by cause."""
    skipped: Counter[str] = Counter(data.skipped)
    for part in ("train", "val"):
        skipped.update({k: n for k, n in data.report[part].counts.items() if k not in ("split", "resampled")})
    return skipped


@rank_zero_only
def publish(summary: dict[str, Any], folder: str | Path, trainer: L.Trainer) -> None:
    """Writes `summary.json` and sets the columns of W&B's table of runs; a failure never stops the run."""
    try:
        with whole(Path(folder) / FILE) as part:
            part.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        log.warning("%s could not be written to %s: %s", FILE, folder, error)
    for logger in trainer.loggers:
        if isinstance(logger, UnfailingWandbLogger):
            logger.summarize(columns(summary))


def has_summary(folder: str | Path, step: int) -> bool:
    """Returns whether the summary in the folder of a run describes it at a step."""
    try:
        return bool(json.loads((Path(folder) / FILE).read_text("utf-8"))["step"] == step)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def columns(summary: dict[str, Any]) -> dict[str, Any]:
    """Flattens a summary to the columns of a table of runs: latency and quality first."""
    quality = {
        name.replace("val/", "quality/"): value for name, value in summary["last"].items() if name.startswith("val/")
    }
    latency = {f"latency/{name}": value for name, value in summary["latency"].items()}
    kept = ("task", "preset", "parameters", "hours_seen", "seconds", "peak_memory_gb")
    return {**latency, **quality, **{f"run/{name}": summary[name] for name in kept}}
