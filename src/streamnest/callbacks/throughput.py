"""Measures the speed of a run, and the time that it waits for data."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from dataclasses import dataclass

import lightning as L
import torch
from lightning import Callback

from streamnest.data.batch import Batch
from streamnest.encoder_task import sum_over_processes


@dataclass(frozen=True)
class _Step:
    audio: float
    wall: float
    waited: float

    def __add__(self, other: _Step) -> _Step:
        return _Step(self.audio + other.audio, self.wall + other.wall, self.waited + other.waited)


class Throughput(Callback):
    """Logs, over a sliding window of batches without validation and saving:

    - `train/audio_hours_per_hour`: audio of all ranks over wall time,
    - `train/step_seconds`: wall time per batch,
    - `train/data_wait_share`: share of it spent waiting for the next batch,
    - `train/memory_gb`: peak memory of the accelerator, or of the process on a CPU.

    The time between two batches counts as waiting, including that of other callbacks.

    Args:
        window: number of batches to average over.
        warmup: first batches that are left out, because compilation and allocation make them slow.

    Attributes:
        total: seconds of audio of this rank, wall time and waiting time of all batches after `warmup`.
    """

    def __init__(self, window: int = 50, warmup: int = 2) -> None:
        self.warmup = warmup
        self._steps: deque[_Step] = deque(maxlen=window)
        self.total = _Step(0.0, 0.0, 0.0)
        self._mark: float | None = None
        self._waited = 0.0
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Resets all measurements."""
        self._steps.clear()
        self._mark, self._seen = None, 0
        self.total = _Step(0.0, 0.0, 0.0)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Measures the time since the end of the last batch as waiting."""
        now = time.perf_counter()
        self._mark = now if self._mark is None else self._mark
        self._waited = now - self._mark

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Adds the batch to the window and logs."""
        now = time.perf_counter()
        self._seen += 1
        if self._mark is not None and self._seen > self.warmup:
            self._steps.append(_Step(batch.seconds, now - self._mark, self._waited))
            self.total += self._steps[-1]
        self._mark = now
        if self._steps:
            self._log(pl_module, len(batch.ids))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Excludes the validation: the clock starts again with the next batch."""
        self._mark = None

    def _log(self, pl_module: L.LightningModule, batch_size: int) -> None:
        wall = sum(step.wall for step in self._steps)
        speed = sum(step.audio for step in self._steps) / wall
        speeds = sum_over_processes(torch.full((), speed, device=pl_module.device))
        pl_module.log("train/audio_hours_per_hour", speeds, batch_size=batch_size)
        own = {
            "step_seconds": wall / len(self._steps),
            "data_wait_share": sum(step.waited for step in self._steps) / wall,
            "memory_gb": peak_memory_gb(pl_module.device),
        }
        # Tensors are filled on the device: Lightning would copy a number, and wait for the copy.
        logged = {f"train/{name}": torch.full((), value, device=pl_module.device) for name, value in own.items()}
        pl_module.log_dict(logged, batch_size=batch_size)


def peak_memory_gb(device: torch.device) -> float:
    """Returns the peak memory of the accelerator, or the peak resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
