"""Optimizer and learning-rate schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from streamnest.errors import UserError
from streamnest.muon import Muon, is_hidden_matrix, stacked_matrices

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass
class OptimConfig:
    """Schema of the `optim` group."""

    _target_: str = "streamnest.optim.Optimization"
    optimizer: str = "adamw"
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
    hold_share: float = 0.4
    final_scale: float = 0.05


@dataclass
class Optimization:
    """AdamW with a schedule per step.

    `noam`: `lr * d_model^-0.5 * min(s^-0.5, s * warmup^-1.5)` (Vaswani et al. 2017, section 5.3), not below `min_lr`
    after warm-up. `cosine`: linear warm-up to `lr`, then half a cosine down to `min_lr` at `max_steps`.
    `tri_stage`: linear warm-up to `lr`, `lr` for a `hold_share` of `max_steps`, then exponential decay down to
    `final_scale * lr` at `max_steps`, not below `min_lr` (fine-tuning of Baevski et al. 2020, as in fairseq).
    `constant`: linear warm-up, then `lr`. Biases, norms and other vectors have no weight decay.
    The encoder's learning rate is multiplied by `encoder_lr_scale`, and each layer's by `layer_decay` relative to the
    layer above; the subsampling module is the lowest layer. `optimizer="muon"` updates the matrices of encoder layers
    as `Muon` does, with the same learning rate.

    Raises:
        UserError: for an unknown optimizer or schedule, `cosine` and `tri_stage` without `max_steps`, stages longer
            than the run, and values out of range.
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
    optimizer: str = OptimConfig.optimizer
    hold_share: float = OptimConfig.hold_share
    final_scale: float = OptimConfig.final_scale

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise UserError(f"optim.optimizer={self.optimizer!r} is unknown: choose adamw or muon")
        if self.schedule not in ("noam", "cosine", "tri_stage", "constant"):
            raise UserError(f"optim.schedule={self.schedule!r} is unknown: choose noam, cosine, tri_stage or constant")
        if self.schedule in ("cosine", "tri_stage") and self.max_steps <= 0:
            raise UserError(f"optim.schedule={self.schedule} needs trainer.max_steps above 0, got {self.max_steps}")
        if self.schedule == "tri_stage":
            self._check_stages()
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
        if self.schedule == "tri_stage":
            held = self.warmup_steps + self.hold_share * self.max_steps
            decayed = min(1.0, max(0.0, step - held) / max(1.0, self.max_steps - held))
            return max(self.lr * self.final_scale**decayed, self.min_lr)
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
        groups = [
            group | {"lr": scale} for scale, named in self._by_rate(model).items() for group in self._groups(named)
        ]
        # A base rate of 1 makes the schedule's factor the learning rate itself.
        kind = Muon if self.optimizer == "muon" else torch.optim.AdamW
        optimizer = kind(groups, lr=1.0, betas=(self.betas[0], self.betas[1]), fused=True)
        # Gradients must be unscaled before they are clipped, not inside the fused step.
        optimizer._step_supports_amp_scaling = False
        schedule: Callable[[int], float] = lambda done: self.learning_rate(
            1 + (share() * self.max_steps if share else done)
        )
        return optimizer, LambdaLR(optimizer, schedule)

    def _check_stages(self) -> None:
        if not 0 < self.final_scale <= 1:
            raise UserError(f"optim.final_scale={self.final_scale}: must be above 0 and at most 1")
        warmup = self.warmup_steps / self.max_steps
        if not 0 <= self.hold_share <= 1 - warmup + 1e-9:
            raise UserError(
                f"optim.hold_share={self.hold_share}: must be from 0 to {max(0.0, 1 - warmup):.3g}, because "
                f"optim.warmup_steps={self.warmup_steps} takes {warmup:.3g} of {self.max_steps} steps"
            )

    def _by_rate(self, model: nn.Module) -> dict[float, list[tuple[str, nn.Parameter]]]:
        """Groups trainable parameters by the factor of their learning rate, the full rate first."""
        depths = [int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.match(name))]
        layers = max(depths, default=-1) + 1
        groups: dict[float, list[tuple[str, nn.Parameter]]] = {1.0: []}
        for name, parameter in model.named_parameters():
            match = _LAYER.match(name)
            below = layers - (int(match[1]) + 1 if match else 0)
            scale = self.encoder_lr_scale * self.layer_decay**below if name.startswith("encoder.") else 1.0
            if parameter.requires_grad:
                groups.setdefault(scale, []).append((name, parameter))
        return groups

    def _groups(self, named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Returns matrices and vectors of parameters, in Muon preceded by the matrices that it orthogonalizes."""
        hidden = [each for each in named if self.optimizer == "muon" and is_hidden_matrix(*each)]
        if any(isinstance(parameter, DTensor) for _, parameter in hidden):
            raise UserError("optim.optimizer=muon does not work with trainer=fsdp: choose trainer=ddp or adamw")
        chosen = {name for name, _ in hidden}
        groups = [
            {
                "params": [p for name, p in hidden if stacked_matrices(name) == parts],
                "weight_decay": self.weight_decay,
                "orthogonal": True,
                "parts": parts,
            }
            for parts in sorted({stacked_matrices(name) for name in chosen})
        ]
        rest = [parameter for name, parameter in named if name not in chosen]
        return groups + [
            {"params": [p for p in rest if (p.ndim > 1) is matrix], "weight_decay": decay}
            for matrix, decay in ((True, self.weight_decay), (False, 0.0))
        ]


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
    if is_adamw and not all(_fits_group(optimizer, group) for group in optimizer.param_groups):
        raise UserError(
            f"{path}: the state of its optimizer does not fit this model: start from its weights with init_from instead"
        )
    if isinstance(schedule, LambdaLR) and not _counts(schedule.last_epoch, schedule.base_lrs):
        raise UserError(
            f"{path}: the state of its schedule is not valid: start from its weights with init_from instead"
        )


def _fits_group(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    moments = ("momentum",) if group.get("orthogonal") else ("exp_avg", "exp_avg_sq")
    if group.get("orthogonal") and any(parameter.ndim != 2 for parameter in group["params"]):
        return False
    return all(_fits(parameter, optimizer.state.get(parameter), moments) for parameter in group["params"])


def _is_valid(group: dict[str, Any]) -> bool:
    betas, others = group.get("betas"), [group.get(name) for name in ("lr", "eps", "weight_decay")]
    orthogonal, parts = group.get("orthogonal", False), group.get("parts", 1)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(map(_is_number, [*betas, *others])):
        return False
    if not isinstance(orthogonal, bool) or not isinstance(parts, int) or parts < 1:
        return False
    shares = [*betas, *([group["momentum"]] if "momentum" in group else [])]
    if not all(map(_is_number, shares)) or max(shares) >= 1:
        return False
    return min(*shares, *others) >= 0 and not group.get("amsgrad") and not group.get("maximize")


def _fits(parameter: Tensor, state: Any, moments: Iterable[str]) -> bool:
    """True if a state is empty, or consists of a step count and moments of the parameter's size."""
    shapes = {"step": torch.Size(())} | dict.fromkeys(moments, parameter.shape)
    tensors = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    return not state or (tensors and {name: value.shape for name, value in state.items()} == shapes)


def _counts(updates: Any, rates: Any) -> bool:
    return type(updates) is int and updates >= 0 and isinstance(rates, list) and all(map(_is_number, rates))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
