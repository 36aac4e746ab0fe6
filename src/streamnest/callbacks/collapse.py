"""Detects codebook and representation collapse during validation."""

from __future__ import annotations

import logging
import math

import lightning as L
import torch
from lightning import Callback
from torch import Tensor

log = logging.getLogger(__name__)


class CollapseAlarm(Callback):
    """Warns after a validation if targets or representation have collapsed, and logs `health/collapsed` (0 or 1).

    Args:
        min_codes_used_share: distinct codes in use, relative to the number expected if all codes were equally likely;
            targets of features that are not normalized reach 0.015 (124 of 8192).
        min_rank: effective rank of the encoder output, in dimensions.
        stop: stop the run at the first alarm instead of only warning.
    """

    def __init__(self, min_codes_used_share: float = 0.05, min_rank: float = 3.0, stop: bool = False) -> None:
        self.min_codes_used_share, self.min_rank, self.stop = min_codes_used_share, min_rank, stop

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the metrics of this validation and the code counts of the model."""
        if trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        findings = self.findings(metrics, getattr(pl_module, "train_counts", None))
        for finding in findings:
            log.warning("collapse at step %d: %s", trainer.global_step, finding)
        for logger in trainer.loggers:
            logger.log_metrics({"health/collapsed": float(bool(findings))}, step=trainer.global_step)
        if findings and self.stop:
            trainer.should_stop = True

    def findings(self, metrics: dict[str, float], counts: Tensor | None = None) -> list[str]:
        """Returns a sentence with a remedy for each sign of collapse; an empty list if there is none.

        Args:
            metrics: `val/loss` and `val/rank`, if known.
            counts: code counts, `(codebooks, classes)`.
        """
        found = []
        if not math.isfinite(metrics.get("val/loss", 0.0)):
            found.append("the validation loss is not finite: lower optim.lr, or use trainer.precision=32-true")
        rank = metrics.get("val/rank", math.inf)
        if rank < self.min_rank:
            found.append(
                f"the encoder output has an effective rank of {rank:.1f} (below {self.min_rank:g}), its frames are "
                "nearly identical: lower optim.lr or increase optim.warmup_steps"
            )
        share = math.inf if counts is None or not counts.any() else codes_used_share(counts)
        if share < self.min_codes_used_share:
            found.append(
                f"only {share:.1%} of the expected number of codes are used (below {self.min_codes_used_share:.1%}): "
                "normalize the targets (quantizer.normalize=utterance or global), or check for silent audio"
            )
        return found


def codes_used_share(counts: Tensor) -> float:
    """Returns the distinct codes in counts `(codebooks, classes)` over the number expected of equally likely codes."""
    classes = counts.shape[-1]
    frames = counts.double().sum(-1)
    expected = classes * -torch.expm1(frames * math.log1p(-1.0 / classes))
    return float(((counts > 0).double().sum(-1) / expected.clamp_min(1.0)).mean())
