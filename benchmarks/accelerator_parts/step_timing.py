"""Time of training steps that are launched without waiting for the device, and where the host waits all the same."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch

from accelerator_parts.devices import reset_peak, synchronize
from accelerator_parts.pretraining_step import PretrainingStep, noise_batch
from streamnest.data.batch import Batch

_WARMUP, _BLOCKS = 2, 3


class StepTime(NamedTuple):
    """Seconds per step in each block of steps, the median until the host had launched a step, and the first step.

    The first step compiles the model if `compile=true`.
    """

    blocks: list[float]
    on_host: float
    first: float

    @property
    def seconds(self) -> float:
        """Median of the blocks."""
        return statistics.median(self.blocks)


def make_batches(seconds: float, utterance: float, count: int, pin_memory: bool) -> list[Batch]:
    """Makes batches of equally long utterances, `seconds` of audio each, rounded to whole utterances."""
    length = min(seconds, utterance)
    batches = [noise_batch(round(seconds / length), length, number) for number in range(count)]
    return [batch.pin_memory() for batch in batches] if pin_memory else batches


def time_steps(step: PretrainingStep, batches: list[Batch], has_time: Callable[[], bool]) -> StepTime:
    """Times blocks of steps, after some that are not counted.

    Args:
        step: step to time.
        batches: batches of a block.
        has_time: False if no further block should be measured; the first one always is.
    """
    begin = time.perf_counter()
    step(batches[0])
    synchronize(step.device)
    first = time.perf_counter() - begin
    for number in range(1, _WARMUP):
        step(batches[number % len(batches)])
    reset_peak(step.device)
    blocks: list[float] = []
    on_host: list[float] = []
    while len(blocks) < _BLOCKS and (not blocks or has_time()):
        synchronize(step.device)
        begin = time.perf_counter()
        for batch in batches:
            step(batch)
        on_host.append((time.perf_counter() - begin) / len(batches))
        synchronize(step.device)
        blocks.append((time.perf_counter() - begin) / len(batches))
    return StepTime(blocks, statistics.median(on_host), first)


def find_waits(step: PretrainingStep, batch: Batch) -> list[str]:
    """Returns the source lines at which one step makes the host wait for the device; CUDA only."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing" in str(one.message)]
    return [f"{one.filename.rpartition('streamnest/')[2]}:{one.lineno}" for one in found]
