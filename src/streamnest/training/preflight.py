"""Warnings before a run starts: settings with which it would learn little or be slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from omegaconf import DictConfig, OmegaConf
from torch import nn

from streamnest.data.config import DataConfig
from streamnest.data.loading import available_cores

log = logging.getLogger(__name__)

# Slowdown of half precision on a CPU that is worth a warning.
_MAX_SLOWDOWN = 1.3
_SECONDS = 0.1
# Defaults of keys, and the key that each of them needs.
_WITHOUT_EFFECT = {
    "data.piece_left_s": (DataConfig.piece_left_s, "data.piece_s"),
    "task.dual_mode.delay_ms": (0.0, "task.dual_mode.distillation_weight"),
    "task.teacher_delay_ms": (0.0, "task.teacher"),
}


def warn(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Logs settings that are legal but seldom intended."""
    for doubt in doubts(cfg, trainer):
        log.warning("%s", doubt)


def doubts(cfg: DictConfig, trainer: L.Trainer) -> Iterator[str]:
    """Yields a sentence with the remedy for each such setting."""
    if cfg.task.name == "pretrain" and _nothing_is_masked(cfg):
        yield (
            "nothing is masked, so objective=masked only predicts codes of visible frames: choose another masking, or "
            "objective=next_token"
        )
    if _views_are_equal(cfg):
        yield (
            f"task.consistency_weight={cfg.task.consistency_weight:g} has no effect, because both views are equal "
            "without SpecAugment and dropout: set size.dropout=0.1 or task.spec_augment.time_prob=0.01, or "
            "task.consistency_weight=0, which takes half the time"
        )
    if cfg.encoder.get("norms_per_mode") and not cfg.task.dual_mode.offline_weight:
        yield (
            "encoder.norms_per_mode=true without an offline loss: the norms of full context are not trained; set "
            "task.dual_mode.offline_weight=1, or encoder.norms_per_mode=false"
        )
    for key, (default, needed) in _WITHOUT_EFFECT.items():
        value = OmegaConf.select(cfg, key)
        if value not in (None, default) and not OmegaConf.select(cfg, needed):
            yield f"{key}={value:g} has no effect without {needed}: give both, or leave {key} out"
    cores = available_cores()
    if (cfg.data.num_workers or 0) > cores:
        yield (
            f"data.num_workers={cfg.data.num_workers} is more than the {cores} CPU cores of this process: a smaller "
            "number gives the same batches and is faster"
        )
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(str(trainer.precision).split("-")[0])
    if half is not None and isinstance(trainer.accelerator, CPUAccelerator):
        factor = slowdown(half)
        if factor > _MAX_SLOWDOWN:
            yield (
                f"trainer.precision={trainer.precision} is {factor:.0f} times slower than 32-true on this CPU, "
                "which emulates it: use trainer.precision=32-true"
            )


def slowdown(half: torch.dtype) -> float:
    """Measures the time of a small layer in half precision, forward and backward, relative to float32."""
    return _seconds(half) / _seconds(torch.float32)


def _nothing_is_masked(cfg: DictConfig) -> bool:
    masked = str(cfg.objective._target_).endswith("MaskedPrediction")
    return masked and (cfg.masking.get("kind") == "none" or cfg.masking.get("mask_prob") == 0)


def _views_are_equal(cfg: DictConfig) -> bool:
    """True for CR-CTC whose views differ neither in SpecAugment masks nor in dropout, which a frozen encoder lacks."""
    masks, encoder = cfg.task.get("spec_augment"), cfg.encoder
    if cfg.task.get("consistency_weight", 0) <= 0 or masks.time_prob > 0 or (masks.bands > 0 and masks.band_width > 0):
        return False
    return cfg.freeze == "encoder" or not (encoder.dropout or encoder.dropout_input or encoder.dropout_attention)


def _seconds(dtype: torch.dtype) -> float:
    """Measures seconds of a layer and its gradient: the fastest of several, or the first if it is slow."""
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
