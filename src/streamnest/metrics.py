"""What the results of an objective say: losses, accuracies and gains, from sums over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from streamnest import code_usage as health
from streamnest.objectives import PredictionResult


def figures(result: PredictionResult) -> Tensor:
    """Loss, correct and count, `(3,)`, for summing over ranks."""
    return torch.stack([result.loss_sum.detach(), result.correct, result.count.float()])


def training_scores(
    sums: Mapping[str, Tensor], weights: Mapping[str, float], train_counts: Tensor
) -> dict[str, Tensor]:
    """What a training step shows; empty where nothing was predicted.

    Args:
        sums: of the parts of the loss: loss, correct, count.
        weights: of the parts.
        train_counts: of codes in the training set, `(books, classes)`.
    """
    known = {part: value for part, value in sums.items() if value[2] > 0}
    if not known:
        return {}
    total = sum(weights[part] for part in known)
    loss = sum((weights[part] * value[0] / value[2] for part, value in known.items()), torch.zeros(()))
    accuracy = sum((weights[part] / total * value[1] / value[2] for part, value in known.items()), torch.zeros(()))
    shown = {"loss": loss, "accuracy": accuracy, "loss_minus_entropy": loss - total * health.entropy(train_counts)}
    counts = {"masked": "masked_frames", "heard": "unmasked_frames", "next_token": "next_blocks"}
    shown |= {counts[part]: value[2] for part, value in known.items()}
    if len(sums) > 1:
        shown |= {f"loss_{part}": value[0] / value[2] for part, value in known.items()}
    return shown


class ValidationScores:
    """Sums over a validation set.

    Args:
        weights: of the parts of the loss.
        num_codebooks: books of codes.
        num_classes: codes per book.
        device: of the sums.
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
            self.sums[part] += figures(result)
            self.counts[part] += result.targets
            for name, detail in result.details.items():
                self.details[name] = self.details.get(name, 0.0) + detail

    def reduced(self, over_ranks: Callable[[Tensor], Tensor]) -> ValidationScores:
        """These sums over all ranks."""
        other = ValidationScores(self.weights, 0, 0)
        other.sums = {part: over_ranks(value) for part, value in self.sums.items()}
        other.counts = {part: over_ranks(value) for part, value in self.counts.items()}
        other.details = {name: over_ranks(value) for name, value in self.details.items()}
        return other

    def metrics(self, train_counts: Tensor) -> dict[str, float]:
        """Loss, accuracy, what the code frequencies of the training set would reach, and the use of codes.

        Each is the weighted sum over the parts (accuracy and entropy: the weighted mean); where there are several
        parts, each is given by itself as well.

        Args:
            train_counts: of codes in the training set, `(books, classes)`.
        """
        parts = {part: self._part(part, train_counts) for part in self.weights}
        total = sum(self.weights.values())
        shown = {
            name: sum(weight * parts[part][name] for part, weight in self.weights.items())
            for name in ("loss", "accuracy", "unigram", "entropy")
        }
        shown["accuracy"] /= total
        shown["gain"] = shown["unigram"] - shown["loss"]
        shown["perplexity"] = float(torch.tensor(shown.pop("entropy") / total).exp())
        counts = torch.stack(list(self.counts.values())).sum(0)
        shown["codes_used"] = float((counts > 0).float().sum(-1).mean())
        if len(parts) > 1:
            for part, values in parts.items():
                shown |= {f"{name}_{part}": values[name] for name in ("loss", "accuracy")}
                shown[f"gain_{part}"] = values["unigram"] - values["loss"]
        for name, detail in self.details.items():
            shown[f"accuracy_{name}"] = float(detail[0] / detail[1].clamp_min(1))
        return shown

    def _part(self, part: str, train_counts: Tensor) -> dict[str, float]:
        loss, accuracy = (self.sums[part][:2] / self.sums[part][2].clamp_min(1)).tolist()
        return {
            "loss": loss,
            "accuracy": accuracy,
            "unigram": health.unigram_cross_entropy(train_counts, self.counts[part]),
            "entropy": health.entropy(self.counts[part]),
        }
