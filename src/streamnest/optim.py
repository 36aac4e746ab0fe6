"""Optimiser and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from streamnest.errors import UserError


@dataclass
class OptimConfig:
    """Schema of the `optim` group."""

    _target_: str = "streamnest.optim.Optimization"
    schedule: str = "noam"
    lr: float = 5.0
    min_lr: float = 1e-6
    warmup_steps: int = 25000
    max_steps: int = -1
    d_model: int = 256
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    weight_decay: float = 1e-3


@dataclass
class Optimization:
    """AdamW with a schedule per step.

    `noam`: `lr * d_model^-0.5 * min(s^-0.5, s * warmup^-1.5)` (Vaswani et al. 2017, section 5.3), not below `min_lr`
    once warmed up. `cosine`: linear warm-up to `lr`, then half a cosine down to `min_lr` at `max_steps`.
    `constant`: linear warm-up, then `lr`. Weight decay spares biases, norms and other vectors.

    Raises:
        UserError: for an unknown schedule, or `cosine` without `max_steps`.
    """

    schedule: str
    lr: float
    min_lr: float
    warmup_steps: int
    max_steps: int
    d_model: int
    betas: list[float]
    weight_decay: float

    def __post_init__(self) -> None:
        if self.schedule not in ("noam", "cosine", "constant"):
            raise UserError(f"optim.schedule={self.schedule!r} is unknown: choose noam, cosine or constant")
        if self.schedule == "cosine" and self.max_steps <= 0:
            raise UserError("optim.schedule=cosine ends at trainer.max_steps: give a positive number of steps")

    def learning_rate(self, step: int) -> float:
        """The rate of update number `step`, counted from 1."""
        warm = min(1.0, step / max(1, self.warmup_steps))
        if self.schedule == "noam":
            warmup = max(1, self.warmup_steps)
            rate = self.lr * self.d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
            return max(rate, self.min_lr) if step > warmup else rate
        if self.schedule == "constant" or warm < 1.0:
            return self.lr * warm
        progress = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimiser and its per-step scheduler for the trainable parameters of a model."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # A base rate of 1 makes the schedule's factor the learning rate itself.
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(self.betas[0], self.betas[1]), fused=True)
        # Gradients are to be unscaled before they are clipped, not inside the fused step.
        optimizer._step_supports_amp_scaling = False
        schedule: Callable[[int], float] = lambda done: self.learning_rate(done + 1)
        return optimizer, LambdaLR(optimizer, schedule)
