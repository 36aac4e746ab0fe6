"""Optimizer and learning-rate schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from streamnest.errors import UserError

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


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
    encoder_lr_scale: float = 1.0
    layer_decay: float = 1.0


@dataclass
class Optimization:
    """AdamW with a schedule per step.

    `noam`: `lr * d_model^-0.5 * min(s^-0.5, s * warmup^-1.5)` (Vaswani et al. 2017, section 5.3), not below `min_lr`
    after warm-up. `cosine`: linear warm-up to `lr`, then half a cosine down to `min_lr` at `max_steps`.
    `constant`: linear warm-up, then `lr`. Biases, norms and other vectors have no weight decay.
    The encoder's learning rate is multiplied by `encoder_lr_scale`, and each layer's by `layer_decay` relative to the
    layer above; the subsampling module is the lowest layer.

    Raises:
        UserError: for an unknown schedule, `cosine` without `max_steps`, and scales that are not positive.
    """

    schedule: str
    lr: float
    min_lr: float
    warmup_steps: int
    max_steps: int
    d_model: int
    betas: list[float]
    weight_decay: float
    encoder_lr_scale: float = OptimConfig.encoder_lr_scale
    layer_decay: float = OptimConfig.layer_decay

    def __post_init__(self) -> None:
        if self.schedule not in ("noam", "cosine", "constant"):
            raise UserError(f"optim.schedule={self.schedule!r} is unknown: choose noam, cosine or constant")
        if self.schedule == "cosine" and self.max_steps <= 0:
            raise UserError(f"optim.schedule=cosine needs trainer.max_steps above 0, got {self.max_steps}")
        for name in ("encoder_lr_scale", "layer_decay"):
            if getattr(self, name) <= 0:
                raise UserError(f"optim.{name}={getattr(self, name)}: must be above 0 (freeze=encoder keeps it fixed)")

    def learning_rate(self, step: float) -> float:
        """Returns the learning rate of update number `step`, counted from 1; a fraction lies between two updates."""
        warm = min(1.0, step / max(1, self.warmup_steps))
        if self.schedule == "noam":
            warmup = max(1, self.warmup_steps)
            rate = self.lr * self.d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
            return max(rate, self.min_lr) if step > warmup else rate
        if self.schedule == "constant" or warm < 1.0:
            return self.lr * warm
        progress = (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def build(
        self, model: nn.Module, share: Callable[[], float] | None = None
    ) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Builds the optimizer and its per-step scheduler for the trainable parameters of a model.

        Args:
            model: model to train.
            share: returns the share of the budget that is used up, which the schedule then follows instead of the
                number of updates; None counts updates.
        """
        by_rate = self._by_rate(model)
        groups = [
            {"params": [p for p in parameters if (p.ndim > 1) is matrix], "lr": scale, "weight_decay": decay}
            for scale, parameters in by_rate.items()
            for matrix, decay in ((True, self.weight_decay), (False, 0.0))
        ]
        # A base rate of 1 makes the schedule's factor the learning rate itself.
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(self.betas[0], self.betas[1]), fused=True)
        # Gradients must be unscaled before they are clipped, not inside the fused step.
        optimizer._step_supports_amp_scaling = False
        schedule: Callable[[int], float] = lambda done: self.learning_rate(
            1 + (share() * self.max_steps if share else done)
        )
        return optimizer, LambdaLR(optimizer, schedule)

    def _by_rate(self, model: nn.Module) -> dict[float, list[nn.Parameter]]:
        """Groups trainable parameters by the factor of their learning rate, the full rate first."""
        depths = [int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.match(name))]
        layers = max(depths, default=-1) + 1
        groups: dict[float, list[nn.Parameter]] = {1.0: []}
        for name, parameter in model.named_parameters():
            match = _LAYER.match(name)
            below = layers - (int(match[1]) + 1 if match else 0)
            scale = self.encoder_lr_scale * self.layer_decay**below if name.startswith("encoder.") else 1.0
            if parameter.requires_grad:
                groups.setdefault(scale, []).append(parameter)
        return groups


def require_fitting(optimizer: torch.optim.Optimizer, schedule: Any, path: str | Path) -> None:
    """Checks a restored optimizer state: with wrong sizes, torch's kernels would write out of bounds.

    Args:
        optimizer: optimizer with the state of a checkpoint; other classes than that of `Optimization` are not checked.
        schedule: schedule with the state of a checkpoint.
        path: path of the checkpoint, for messages.

    Raises:
        UserError: for settings of wrong type or out of range, and for tensors of wrong size.
    """
    is_adamw = isinstance(optimizer, torch.optim.AdamW)
    if is_adamw and not all(_is_valid(group) for group in optimizer.param_groups):
        raise UserError(
            f"{path}: the settings of its optimizer are not valid: start from its weights with init_from instead"
        )
    if is_adamw and not all(_fits(parameter, state) for parameter, state in optimizer.state.items()):
        raise UserError(
            f"{path}: the state of its optimizer does not fit this model: start from its weights with init_from instead"
        )
    if isinstance(schedule, LambdaLR) and not _counts(schedule.last_epoch, schedule.base_lrs):
        raise UserError(
            f"{path}: the state of its schedule is not valid: start from its weights with init_from instead"
        )


def _is_valid(group: dict[str, Any]) -> bool:
    betas, others = group.get("betas"), [group.get(name) for name in ("lr", "eps", "weight_decay")]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(map(_is_number, [*betas, *others])):
        return False
    return max(betas) < 1 and min(*betas, *others) >= 0 and not group.get("amsgrad") and not group.get("maximize")


def _fits(parameter: torch.Tensor, state: Any) -> bool:
    """True if a state is empty, or consists of a step count and two moments of the parameter's size."""
    shapes = {"step": torch.Size(()), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    return not state or (tensors and {name: value.shape for name, value in state.items()} == shapes)


def _counts(updates: Any, rates: Any) -> bool:
    return type(updates) is int and updates >= 0 and isinstance(rates, list) and all(map(_is_number, rates))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
