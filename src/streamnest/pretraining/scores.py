"""Losses, accuracies and gains of an objective, from sums over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from streamnest import code_usage
from streamnest.objectives import PredictionResult
from streamnest.objectives.dual_mode import DIVERGENCE, OFFLINE


def sums_of(result: PredictionResult) -> Tensor:
    """Stacks loss, correct and count, `(3,)`, for summing over ranks."""
    return torch.stack([result.loss_sum.detach(), result.correct, result.correct.new_full((), result.count)])


def training_scores(
    predicted: Mapping[str, Tensor], weights: Mapping[str, float], target_entropy: Tensor
) -> dict[str, Tensor]:
    """Computes the metrics of a training step; empty if nothing was predicted.

    Args:
        predicted: loss, correct and count of each part of the loss with predictions.
        weights: weight of each part of the loss.
        target_entropy: entropy in nats of the codes of the training set.
    """
    if not predicted:
        return {}
    total = sum(weights[part] for part in predicted)
    loss = sum((weights[part] * value[0] / value[2] for part, value in predicted.items()), torch.zeros(()))
    accuracy = sum((weights[part] / total * value[1] / value[2] for part, value in predicted.items()), torch.zeros(()))
    metrics = {
        "loss": loss,
        "accuracy": accuracy,
        "loss_minus_entropy": loss - total * target_entropy,
    }
    counts = {"masked": "masked_frames", "unmasked": "unmasked_frames", "next_token": "next_blocks"}
    metrics |= {counts[part]: value[2] for part, value in predicted.items()}
    if len(weights) > 1:
        metrics |= {f"loss_{part}": value[0] / value[2] for part, value in predicted.items()}
    return metrics


def dual_mode_scores(sums: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Computes the metrics of the offline branch in a training step.

    Args:
        sums: loss, correct and count of each part of `compare_branches` with predictions.
        weights: weight of each part of the objective.
    """
    scores: dict[str, Tensor] = {}
    for name, beginning in (("loss_offline", OFFLINE), ("divergence_offline", DIVERGENCE)):
        parts = {part: sums[beginning + part] for part in weights if beginning + part in sums}
        if parts:
            scores[name] = torch.stack([weights[part] * value[0] / value[2] for part, value in parts.items()]).sum()
    return scores


class ValidationScores:
    """Sums over a validation set.

    Args:
        weights: weight of each part of the loss.
        num_codebooks: number of codebooks.
        num_classes: codes per codebook.
        device: device of the sums.
    """

    def __init__(
        self, weights: Mapping[str, float], num_codebooks: int, num_classes: int, device: torch.device | str = "cpu"
    ) -> None:
        self.weights = dict(weights)
        self.sums = {part: torch.zeros(3, device=device) for part in weights}
        self.counts = {part: torch.zeros(num_codebooks, num_classes, device=device) for part in weights}
        self.details: dict[str, Tensor] = {}

    def add(self, results: Mapping[str, PredictionResult]) -> None:
        """Adds the results of a batch."""
        for part, result in results.items():
            self.sums[part] += sums_of(result)
            self.counts[part] += result.targets
            for name, detail in result.details.items():
                self.details[name] = self.details.get(name, 0.0) + detail

    def reduced(self, over_ranks: Callable[[Tensor], Tensor]) -> ValidationScores:
        """Returns these sums over all ranks."""
        other = ValidationScores(self.weights, 0, 0)
        other.sums = {part: over_ranks(value) for part, value in self.sums.items()}
        other.counts = {part: over_ranks(value) for part, value in self.counts.items()}
        other.details = {name: over_ranks(value) for name, value in self.details.items()}
        return other

    def metrics(self, train_counts: Tensor) -> dict[str, float]:
        """Computes loss, accuracy, unigram baseline and code usage.

        Each is the weighted sum over the parts (weighted mean for accuracy and entropy). If there are several parts,
        each also has metrics of its own.

        Args:
            train_counts: counts of codes in the training set, `(codebooks, classes)`.
        """
        parts = {part: self._part(part, train_counts) for part in self.weights}
        total = sum(self.weights.values())
        metrics = {
            name: sum(weight * parts[part][name] for part, weight in self.weights.items())
            for name in ("loss", "accuracy", "unigram", "entropy")
        }
        metrics["accuracy"] /= total
        metrics["gain"] = metrics["unigram"] - metrics["loss"]
        metrics["perplexity"] = float(torch.tensor(metrics.pop("entropy") / total).exp())
        counts = torch.stack(list(self.counts.values())).sum(0)
        metrics["codes_used"] = float((counts > 0).float().sum(-1).mean())
        if len(parts) > 1:
            for part, values in parts.items():
                metrics |= {f"{name}_{part}": values[name] for name in ("loss", "accuracy")}
                metrics[f"gain_{part}"] = values["unigram"] - values["loss"]
        for name, detail in self.details.items():
            metrics[f"accuracy_{name}"] = float(detail[0] / detail[1].clamp_min(1))
        return metrics

    def _part(self, part: str, train_counts: Tensor) -> dict[str, float]:
        loss, accuracy = (self.sums[part][:2] / self.sums[part][2].clamp_min(1)).tolist()
        return {
            "loss": loss,
            "accuracy": accuracy,
            "unigram": code_usage.unigram_cross_entropy(train_counts, self.counts[part]),
            "entropy": code_usage.entropy(self.counts[part]),
        }
