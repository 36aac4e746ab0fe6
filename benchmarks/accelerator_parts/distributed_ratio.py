"""Part `ddp`: a run of one process with and without DistributedDataParallel."""

from __future__ import annotations

import statistics
import time
import warnings

import lightning as L
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from accelerator_parts.devices import synchronize
from accelerator_parts.pretraining_step import build
from accelerator_parts.results import PartResult
from accelerator_parts.settings import Budget, Settings
from accelerator_parts.step_timing import make_batches
from streamnest.config.compose import compose_config
from streamnest.data.batch import Batch
from streamnest.locations import config_folder
from streamnest.pretraining import Pretraining
from streamnest.training.budget import make_trainer

_WARMUP, _TURNS = 2, 2


class _Clock(L.Callback):
    """Measures the seconds per step after the first ones."""

    def __init__(self) -> None:
        self.seconds, self.backend = 0.0, ""
        self._begin, self._steps = 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._steps += 1
        if self._steps == _WARMUP:
            synchronize(pl_module.device)
            self._begin = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        synchronize(pl_module.device)
        self.seconds = (time.perf_counter() - self._begin) / (self._steps - _WARMUP)
        if torch.distributed.is_initialized():
            self.backend = torch.distributed.get_backend()


def run(settings: Settings, budget: Budget, result: PartResult, _: float | None) -> None:
    """Trains in turns with and without DDP, by the trainer of a run."""
    precision = "bf16-mixed" if settings.device.type == "cuda" else "32-true"
    seconds = min(480.0, settings.batch_seconds[-1])
    batches = make_batches(seconds, settings.utterance_seconds, settings.steps + _WARMUP, pin_memory=False)
    result.title = f"one process, {precision}, batches of {seconds:g} s"
    overrides = [*settings.model, f"trainer.precision={precision}", f"trainer.max_steps={len(batches)}"]
    cfg, model = compose_config(overrides, config_folder(), "ddp"), build(overrides)
    times: dict[str, list[float]] = {"auto": [], "ddp": []}
    backend = ""
    for turn in range(_TURNS):
        for strategy, values in times.items():
            if turn and not budget.allows(result, f"turn {turn + 1} of strategy={strategy}"):
                continue
            clock = _train(cfg, model, batches, strategy, settings)
            values.append(clock.seconds)
            backend = clock.backend if strategy == "ddp" else backend
    middle = {strategy: statistics.median(values) for strategy, values in times.items()}
    for strategy, values in times.items():
        result.rows.append(
            {
                "strategy": f"ddp, {backend}" if strategy == "ddp" else "none",
                "ms per step": 1000 * middle[strategy],
                "range, ms": f"{1000 * min(values):.0f} to {1000 * max(values):.0f}",
                "relative": middle[strategy] / middle["auto"],
            }
        )


def _train(cfg: DictConfig, model: Pretraining, batches: list[Batch], strategy: str, settings: Settings) -> _Clock:
    clock = _Clock()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = make_trainer(cfg, [clock], **off, accelerator=settings.device.type, devices=1, strategy=strategy)
    loader: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, train_dataloaders=loader)
    return clock
