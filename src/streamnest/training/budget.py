"""Length of a run in hours of audio: the steps that it takes, and the trainer of the run."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.callbacks.budget import StopAtBudget
from streamnest.callbacks.moving_average import averages_first
from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.errors import UserError

# Settings of the trainer that are not arguments of Lightning's.
_OWN = ("max_audio_hours", "val_every_hours")


def refuse_contradictions(cfg: DictConfig) -> None:
    """Refuses a run whose length, or interval of validations, is given twice.

    Raises:
        UserError: naming both keys.
    """
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = {override.lstrip("+").partition("=")[0] for override in given}
    hours, every = cfg.trainer.max_audio_hours, cfg.trainer.val_every_hours
    if hours is not None and "trainer.max_steps" in keys:
        raise UserError(
            f"trainer.max_audio_hours={hours:g} and trainer.max_steps both set the length of the run: give one of them"
        )
    if hours is not None and cfg.data.get("num_batches") is not None:
        raise UserError(
            f"trainer.max_audio_hours={hours:g} and data.num_batches both set the length of the run: give one of them"
        )
    if every is not None and "trainer.val_check_interval" in keys:
        raise UserError(
            f"trainer.val_every_hours={every:g} and trainer.val_check_interval both set the interval between "
            "validations: give one of them"
        )
    if hours is not None and every is not None and every > hours:
        raise UserError(
            f"trainer.val_every_hours={every:g} is more than trainer.max_audio_hours={hours:g}: give at most "
            f"{hours:g}, or null"
        )


def with_audio_budget(cfg: DictConfig, data: Any, stored: StoredCheckpoint | None = None) -> DictConfig:
    """Returns the config of a run with the settings in steps that its settings in hours of audio amount to.

    `trainer.max_steps` becomes the number of steps that the budget takes on average. It is the unit of warm-up and
    schedule, which follow the share of the budget that has been consumed; the run ends by hours. A continued run keeps
    the number of its checkpoint, in proportion to the budget, so that the learning rate does not jump.

    Args:
        cfg: composed config; without a setting in hours it is returned unchanged.
        data: data module of the run.
        stored: checkpoint that the run continues from.

    Raises:
        UserError: for a data module that does not know its audio per batch.
    """
    hours, every = cfg.trainer.max_audio_hours, cfg.trainer.val_every_hours
    if hours is None and every is None:
        return cfg
    earlier = _steps_per_hour(stored) if hours is not None else None
    rate = earlier or 3600 / (_batch_seconds(cfg, data) * cfg.trainer.accumulate_grad_batches)
    cfg = copy.deepcopy(cfg)
    if hours is not None:
        cfg.trainer.max_steps = max(1, round(hours * rate))
    if every is not None:
        cfg.trainer.val_check_interval = max(1, round(every * rate)) * cfg.trainer.accumulate_grad_batches
    return cfg


def make_trainer(cfg: DictConfig, callbacks: Sequence[L.Callback] = (), **arguments: Any) -> L.Trainer:
    """Builds the trainer of a config; a budget in hours of audio replaces its number of steps.

    Validations come after complete steps, because their checkpoints do not contain accumulated gradients.

    Args:
        cfg: composed config.
        callbacks: callbacks of the run.
        arguments: other arguments of `lightning.Trainer`, which replace those of the config.
    """
    settings: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    kept = {key: value for key, value in settings.items() if key not in _OWN}
    together = settings["accumulate_grad_batches"]
    kept["val_check_interval"] = -(-settings["val_check_interval"] // together) * together
    if settings["max_audio_hours"] is not None:
        kept["max_steps"] = -1
        callbacks = [StopAtBudget(settings["max_audio_hours"]), *callbacks]
    trainer: L.Trainer = instantiate({**kept, **arguments}, callbacks=averages_first(callbacks))
    return trainer


def _steps_per_hour(stored: StoredCheckpoint | None) -> float | None:
    """Returns the steps per hour of audio of an earlier part of a run with a budget in hours; None without any."""
    config = stored.content["streamnest"]["config"] if stored else {}
    settings = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        return None
    steps, hours = settings.get("max_steps"), settings.get("max_audio_hours")
    if type(steps) is not int or not isinstance(hours, (int, float)) or steps <= 0 or not 0 < hours < math.inf:
        return None
    return steps / hours


def _batch_seconds(cfg: DictConfig, data: Any) -> float:
    """Returns the mean seconds of audio in the batches of all processes together."""
    if not hasattr(data, "mean_batch_seconds"):
        raise UserError(
            f"trainer.max_audio_hours and trainer.val_every_hours need the audio per batch, but data._target_="
            f"{cfg.data.get('_target_')} has no method mean_batch_seconds(world_size): add one, or give "
            "trainer.max_steps and trainer.val_check_interval"
        )
    data.setup("fit")
    processes = _devices(cfg.trainer.devices, str(cfg.trainer.accelerator)) * int(cfg.trainer.num_nodes)
    return float(data.mean_batch_seconds(processes)) * processes


def _devices(devices: Any, accelerator: str) -> int:
    """Returns the number of processes on a node, for each form of `trainer.devices`."""
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, int) and devices > 0:
        return devices
    if devices in (-1, "auto"):
        return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1
    return len(devices.split(",") if isinstance(devices, str) else devices)
