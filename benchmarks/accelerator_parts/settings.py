"""Settings that all parts share, and the time budget of a part."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from accelerator_parts.devices import choose_device
from accelerator_parts.results import PartResult

SMALL_MODEL = ("encoder=causal", "encoder.subsampling_factor=8", "size=tiny")
LARGE_MODEL = ("experiment=nest_large",)
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Settings:
    """Device and sizes.

    Attributes:
        device: device to measure.
        small: measure a small model, to test the program.
        model: overrides of the model.
        presets: encoder presets whose outputs are compared.
        batch_seconds: seconds of audio per batch.
        utterance_seconds: seconds of each utterance.
        steps: steps per timed block.
        streams: numbers of streams stepped together.
        workers: loader processes.
        corpora: forms of the corpus to read.
    """

    device: torch.device
    small: bool
    model: tuple[str, ...]
    presets: tuple[str, ...]
    batch_seconds: tuple[float, ...]
    utterance_seconds: float
    steps: int
    streams: tuple[int, ...]
    workers: int
    corpora: tuple[str, ...]


def settings_of(args: argparse.Namespace) -> Settings:
    """Fills in the settings that depend on the device.

    Raises:
        UserError: for a device that is absent.
    """
    device = choose_device(args.device)
    small = device.type != "cuda" if args.small is None else args.small
    presets = (
        ("causal", "limited3200") if small else ("causal", "lookahead40", "limited3200", "dynamic", "bidirectional")
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Settings(
        device,
        small,
        (*(SMALL_MODEL if small else LARGE_MODEL), *args.overrides),
        tuple(args.presets or presets),
        tuple(sorted(args.batch_seconds or ([8.0] if small else [120.0, 480.0, 960.0]))),
        4.0 if small else 16.0,
        args.steps or (2 if small else 8),
        tuple(args.streams or ([1, 4] if small else [1, 32, 256])),
        max(1, min(_MOST_WORKERS, cores - 1)) if args.workers is None else args.workers,
        ("files, ogg",) if small else ("files, flac", "shards, flac"),
    )


class Budget:
    """Seconds that a part may take; it checks them before each measurement.

    Args:
        seconds: length.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds left; negative after the end."""
        return self._end - time.perf_counter()

    def allows(self, result: PartResult, measurement: str) -> bool:
        """True if time is left; otherwise adds a note that the measurement was left out."""
        if self.left > 0:
            return True
        result.notes.append(f"Not measured, because the {self.seconds:.0f} s of this part are used up: {measurement}.")
        return False


# The last argument is the rate of training that the loader must reach, if it was measured.
Part: TypeAlias = Callable[[Settings, Budget, PartResult, "float | None"], None]
