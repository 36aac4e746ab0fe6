"""Error rates pooled over seeds, and differences between systems, with bootstrap confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    Attributes:
        value: measured value.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


class Bootstrap:
    """Paired bootstrap over utterances and seeds (Bisani and Ney 2004).

    Each replicate samples utterances and seeds with replacement and uses the same sample for all systems. With one seed
    only utterances vary, and the interval equals that of `error_rates.bootstrap`.

    Args:
        seeds: number of seeds.
        utterances: number of utterances.
        replicates: number of bootstrap replicates.
        seed: random seed.
        level: confidence level.
    """

    def __init__(self, seeds: int, utterances: int, replicates: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        generator = np.random.default_rng(seed)
        self.utterances = generator.multinomial(utterances, np.full(utterances, 1 / utterances), replicates)
        self.seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), replicates)
        self.level = level

    def rate(self, counts: Counts) -> Estimate:
        """Returns errors per unit of `counts` `(seeds, utterances, 2)`, pooled over seeds."""
        return self._estimate(rate(counts), self._rates(counts))

    def change(self, counts: Counts, reference: Counts) -> Estimate:
        """Returns the change of a rate relative to a reference: -0.1 is a tenth fewer errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates = self._rates(counts) / self._rates(reference) - 1
            value = np.float64(rate(counts)) / rate(reference) - 1
        return self._estimate(float(value), replicates)

    def _rates(self, counts: Counts) -> Counts:
        wrong, units = (((self.utterances @ part.T) * self.seeds).sum(1) for part in np.moveaxis(counts, -1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(wrong / units)

    def _estimate(self, value: float, replicates: Counts) -> Estimate:
        replicates = replicates[np.isfinite(replicates)]
        if not len(replicates):
            return Estimate(value, float("nan"), float("nan"))
        low, high = np.quantile(replicates, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Estimate(value, float(low), float(high))


def rate(counts: Counts) -> float:
    """Returns errors per unit of counts `(..., 2)`; NaN without any unit."""
    wrong, units = counts.reshape(-1, 2).sum(0)
    return float(wrong / units) if units else float("nan")
