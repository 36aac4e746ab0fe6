"""Callbacks: progress, speed, plots, alarms, checkpoints, and stopping without losing a step."""

from __future__ import annotations

from streamnest.callbacks.checkpoints import BestAndLast, StepCheckpoint
from streamnest.callbacks.collapse import CollapseAlarm
from streamnest.callbacks.final_validation import FinalValidation
from streamnest.callbacks.gradients import GradientGuard
from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.interrupt import StopOnSignal
from streamnest.callbacks.moving_average import MovingAverage
from streamnest.callbacks.plots import Plots
from streamnest.callbacks.progress import Progress
from streamnest.callbacks.throughput import Throughput
from streamnest.callbacks.watchdog import Watchdog

__all__ = [
    "BestAndLast",
    "CollapseAlarm",
    "FinalValidation",
    "GradientGuard",
    "MovingAverage",
    "Plots",
    "Progress",
    "StepCheckpoint",
    "StopOnSignal",
    "Throughput",
    "ValHistory",
    "Watchdog",
]
