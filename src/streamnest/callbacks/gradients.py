"""Skips updates with gradients that are not finite or far too large, and keeps their batches for inspection."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning import Callback
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from streamnest.data.batch import Batch
from streamnest.errors import UserError

log = logging.getLogger(__name__)


class GradientGuard(Callback):
    """Skips the update of a step whose gradient is not finite, or much larger than those before it.

    It acts after gradients are averaged over ranks and before they are clipped. All ranks skip together.

    Args:
        dirpath: folder for the batches of skipped steps, `skipped_STEP_RANK.pt`, with audio and cut ids.
        spike: norm that counts as a spike, relative to the median of the last `window` steps; None skips only gradients
            that are not finite.
        window: number of steps of the median; nothing is a spike before it is full.
        max_in_row: skipped steps in a row that stop the run.
        max_kept: maximum number of batches that are kept.

    Raises:
        UserError: for too many skipped steps in a row.
    """

    def __init__(
        self,
        dirpath: str | Path,
        spike: float | None = 20.0,
        window: int = 100,
        max_in_row: int = 20,
        max_kept: int = 10,
    ) -> None:
        self.dirpath, self.spike, self.max_in_row, self.max_kept = Path(dirpath), spike, max_in_row, max_kept
        self.norms: deque[float] = deque(maxlen=window)
        self.skipped, self._in_row, self._kept = 0, 0, 0
        self._batch: Batch | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps a reference to the batch, to save it if its step is skipped."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measures the gradient, and removes it if the step is to be skipped."""
        measured = _norm(pl_module)
        norm = float(measured)  # the only value of a step that the host waits for
        finite = math.isfinite(norm)
        pl_module.log("train/grad_norm", measured if finite else torch.full_like(measured, -1.0))
        if not trainer.strategy.reduce_boolean_decision(not finite or self._is_spike(norm), all=False):
            self.norms.append(norm)
            self._in_row = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self._skip(trainer, norm)

    def state_dict(self) -> dict[str, Any]:
        """Returns the window of the median and the count of skipped steps."""
        return {"norms": list(self.norms), "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.norms.extend(state_dict["norms"])
        self.skipped = state_dict["skipped"]

    def _is_spike(self, norm: float) -> bool:
        full = len(self.norms) == self.norms.maxlen
        return self.spike is not None and full and norm > self.spike * statistics.median(self.norms)

    def _skip(self, trainer: L.Trainer, norm: float) -> None:
        self.skipped, self._in_row = self.skipped + 1, self._in_row + 1
        kept = self._keep(trainer)
        log.warning("step %d is skipped: gradient norm %g; %s", trainer.global_step, norm, kept)
        if self._in_row >= self.max_in_row:
            raise UserError(
                f"the run diverges: {self._in_row} steps in a row, up to step {trainer.global_step}, had gradients "
                f"that spike or are not finite (last norm {norm:g}): lower optim.lr, increase optim.warmup_steps, or "
                f"inspect the batches in {self.dirpath}; callbacks.gradients.max_in_row sets the limit"
            )

    def _keep(self, trainer: L.Trainer) -> str:
        if self._batch is None or self._kept >= self.max_kept:
            return "its batch is not kept"
        self._kept += 1
        path = self.dirpath / f"skipped_{trainer.global_step:07d}_{trainer.global_rank}.pt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(asdict(self._batch), path)
        except (OSError, RuntimeError) as error:
            return f"its batch could not be saved: {error}"
        return f"its batch is in {path}"


def _norm(module: L.LightningModule) -> torch.Tensor:
    """Returns the norm of all gradients, 0-dim."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=module.device)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
