"""What a run was and what it learned, as data: `summary.json` in its folder, and the summary of its W&B run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.throughput import peak_memory_gb
from streamnest.data.datamodule import SpeechDataModule
from streamnest.report import skipped_by_cause
from streamnest.task import EncoderTask
from streamnest.tracking import UnfailingWandbLogger

FILE = "summary.json"


def summarise(
    cfg: DictConfig,
    model: EncoderTask,
    data: SpeechDataModule,
    trainer: L.Trainer,
    history: ValHistory,
    seconds: float,
) -> dict[str, Any]:
    """Figures of a run that has ended; arguments as those of `streamnest.report.summary_panel`.

    Returns:
        What `json` can write: a number that is not finite, such as the latency of an encoder that needs the whole
        utterance, is None.
    """
    latency = {name.removeprefix("latency/"): value for name, value in model.latency.as_dict().items()}
    return {
        "name": cfg.name,
        "task": cfg.task.name,
        "preset": cfg.preset,
        "monitor": cfg.task.monitor,
        "step": trainer.global_step,
        "max_steps": trainer.max_steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "latency": _finite(latency),
        "first": _finite(history.first),
        "last": _finite(history.last),
        "hours_heard": float(model.get_buffer("seconds_heard")) / 3600,
        "seconds": seconds,
        "peak_memory_gb": peak_memory_gb(model.device),
        "skipped": dict(skipped_by_cause(data)),
    }


@rank_zero_only
def publish(summary: dict[str, Any], folder: str | Path, trainer: L.Trainer) -> None:
    """Writes `summary.json` beside its target and renames it; gives W&B the figures that its table of runs shows."""
    target = Path(folder) / FILE
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(target)
    for logger in trainer.loggers:
        if isinstance(logger, UnfailingWandbLogger):
            logger.summarise(columns(summary))


def columns(summary: dict[str, Any]) -> dict[str, Any]:
    """A flat row for a table of runs: latency and quality first."""
    quality = {name.replace("val/", "quality/"): value for name, value in summary["last"].items() if name != "step"}
    latency = {f"latency/{name}": value for name, value in summary["latency"].items()}
    kept = ("task", "preset", "parameters", "hours_heard", "seconds", "peak_memory_gb")
    return {**latency, **quality, **{f"run/{name}": summary[name] for name in kept}}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
