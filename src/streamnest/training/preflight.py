"""Checks before a run begins: it may be finished already, or learn little, or be slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from omegaconf import DictConfig
from torch import nn

log = logging.getLogger(__name__)

# A half precision that saves no time on a processor is not worth a warning, one that costs time is.
_WORTH_SAYING = 1.3
_SECONDS = 0.1


def is_finished(stored: Mapping[str, Any], cfg: DictConfig) -> bool:
    """Reports and returns whether a checkpoint to continue has made all steps of the run."""
    step, most = int(stored.get("global_step", 0)), int(cfg.trainer.max_steps)
    if most < 0 or step < most:
        return False
    log.warning(
        "this run is finished: its checkpoint has step %d and trainer.max_steps is %d: trainer.max_steps=%d trains on",
        step,
        most,
        2 * step,
    )
    return True


def last_value(stored: Mapping[str, Any], metric: str) -> float | None:
    """A metric of the latest validation before a checkpoint was written."""
    records = stored.get("callbacks", {}).get("ValHistory", {}).get("records", [])
    return float(records[-1][metric]) if records and metric in records[-1] else None


def warn(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Logs what a run may go on with, but is seldom meant."""
    for doubt in doubts(cfg, trainer):
        log.warning("%s", doubt)


def doubts(cfg: DictConfig, trainer: L.Trainer) -> Iterator[str]:
    """The same, a sentence each, with the remedy."""
    if cfg.task.name == "pretrain" and _hides_nothing(cfg):
        yield (
            "nothing is masked, so that objective=masked learns to name codes of blocks that were heard: take another "
            "masking, or objective=next_token, which predicts what comes next"
        )
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(str(trainer.precision).split("-")[0])
    if half is not None and isinstance(trainer.accelerator, CPUAccelerator):
        factor = slowdown(half)
        if factor > _WORTH_SAYING:
            yield (
                f"trainer.precision={trainer.precision} is {factor:.0f} times slower than 32-true on this processor, "
                "which emulates it: take trainer.precision=32-true"
            )


def slowdown(half: torch.dtype) -> float:
    """How much longer a small layer takes in half precision than in float32, forward and backward."""
    return _seconds(half) / _seconds(torch.float32)


def _hides_nothing(cfg: DictConfig) -> bool:
    masked = str(cfg.objective._target_).endswith("MaskedPrediction")
    return masked and (cfg.masking.get("kind") == "none" or cfg.masking.get("mask_prob") == 0)


def _seconds(dtype: torch.dtype) -> float:
    """Seconds of a layer and its gradient, the fastest of several, or the only one that there is time for."""
    layer, data = nn.Linear(256, 256).to(dtype), torch.ones(128, 256, dtype=dtype)
    taken: list[float] = []
    until = time.perf_counter() + _SECONDS
    while len(taken) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        layer(data).sum().backward()
        taken.append(time.perf_counter() - start)
        if taken[-1] > _SECONDS:
            break
    return min(taken)
