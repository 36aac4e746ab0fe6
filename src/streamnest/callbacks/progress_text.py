"""Progress of a run as text: steps, metrics, validations, and the remaining time.

A run has a length in steps or, with `trainer.max_audio_hours`, a budget in hours of audio: `budget`, None without one.
"""

from __future__ import annotations

from typing import Any

import lightning as L

from streamnest.formatting import speed


def completed(trainer: L.Trainer, budget: float | None) -> float:
    """Returns how much of its length a run has completed, in hours of audio or in steps."""
    model: Any = trainer.lightning_module
    return trainer.global_step if budget is None else float(model.hours_seen)


def length(trainer: L.Trainer, budget: float | None) -> float | None:
    """Returns the length of a run in the unit of `completed`; None if it is endless."""
    return _steps(trainer) if budget is None else budget


def count(trainer: L.Trainer, budget: float | None) -> str:
    """Describes how far a run is: its steps, and the hours of audio if they limit it."""
    if budget is not None:
        return f"step {trainer.global_step}  {completed(trainer, budget):.2f}/{budget:g} h consumed"
    return f"step {trainer.global_step}{of_total(_steps(trainer))}"


def of_total(total: float | None) -> str:
    """Returns the end of a count, such as `/700`; empty if the total is not known."""
    return "" if total is None else f"/{total:.0f}"


def step_parts(trainer: L.Trainer, budget: float | None) -> list[str]:
    """Describes the metrics of a training step that have been logged so far, the most important first.

    The hours of audio are left out if `count` has them.
    """
    metrics, parts = trainer.callback_metrics, []
    if "train/loss" in metrics:
        parts.append(f"loss {float(metrics['train/loss']):.3f}")
    if "train/accuracy" in metrics:
        parts.append(f"accuracy {float(metrics['train/accuracy']):.1%}")
    if "train/hours" in metrics and budget is None:
        parts.append(f"{float(metrics['train/hours']):.2f} h consumed")
    if "train/audio_hours_per_hour" in metrics:
        parts.append(speed(float(metrics["train/audio_hours_per_hour"])))
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [*parts, f"lr {rates[0]:.1e}"] if rates else parts


def validation_parts(metrics: dict[str, float], step: int) -> list[str]:
    """Describes a validation in parts that a line is not broken within."""
    parts = [f"validation at step {step}", f"loss {metrics['val/loss']:.3f}"]
    if "val/accuracy" in metrics:
        parts.append(f"accuracy {metrics['val/accuracy']:.1%}")
    parts += [f"{name.upper()} {metrics[f'val/{name}']:.1%}" for name in ("cer", "wer") if f"val/{name}" in metrics]
    if "val/gain" in metrics:
        gain = metrics["val/gain"]
        parts.append(f"{abs(gain):.3f} nats {'below' if gain >= 0 else 'above'} the unigram baseline")
    return parts


def remaining(trainer: L.Trainer, budget: float | None) -> float | None:
    """Returns the seconds that training will take from here at its present speed; None if the speed is not known yet.

    Args:
        trainer: trainer of the run.
        budget: hours of audio that the run consumes; None for a number of steps.
    """
    metrics = trainer.callback_metrics
    if budget is not None and float(metrics.get("train/audio_hours_per_hour", 0)) > 0:
        hours_left = max(0.0, budget - float(metrics["train/hours"]))
        return hours_left * 3600 / float(metrics["train/audio_hours_per_hour"])
    if budget is None and trainer.max_steps > 0 and "train/step_seconds" in metrics:
        batches = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return batches * float(metrics["train/step_seconds"])
    return None


def _steps(trainer: L.Trainer) -> int | None:
    return trainer.max_steps if trainer.max_steps > 0 else None
