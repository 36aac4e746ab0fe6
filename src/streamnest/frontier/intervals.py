"""Error rates of several seeds on the same utterances, and differences between them, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its interval.

    Attributes:
        value: as measured.
        low: of the interval.
        high: of the interval.
    """

    value: float
    low: float
    high: float


class Draws:
    """Utterances and seeds drawn with replacement, together: those of one object are paired (Bisani and Ney 2004).

    An utterance that is drawn is drawn for all seeds and all systems. With one seed only utterances vary, and the
    interval is that of `scoring.bootstrap`.

    Args:
        seeds: number of seeds.
        utterances: number of utterances.
        samples: how often all are drawn.
        seed: of the draws.
        level: of confidence.
    """

    def __init__(self, seeds: int, utterances: int, samples: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        generator = np.random.default_rng(seed)
        self.utterances = generator.multinomial(utterances, np.full(utterances, 1 / utterances), samples)
        self.seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), samples)
        self.level = level

    def rate(self, counts: Counts) -> Estimate:
        """Errors over units of `counts` `(seeds, utterances, 2)`, all seeds together."""
        return self._estimate(rate(counts), self._rates(counts))

    def change(self, counts: Counts, reference: Counts) -> Estimate:
        """By how much a rate differs from that of a reference, relative to it: -0.1 is a tenth fewer errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = self._rates(counts) / self._rates(reference) - 1
            value = np.float64(rate(counts)) / rate(reference) - 1
        return self._estimate(float(value), drawn)

    def _rates(self, counts: Counts) -> Counts:
        wrong, units = (((self.utterances @ part.T) * self.seeds).sum(1) for part in np.moveaxis(counts, -1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(wrong / units)

    def _estimate(self, value: float, drawn: Counts) -> Estimate:
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Estimate(value, float("nan"), float("nan"))
        low, high = np.quantile(drawn, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Estimate(value, float(low), float(high))


def rate(counts: Counts) -> float:
    """Errors over units of `(..., 2)`; not a number without any."""
    wrong, units = counts.reshape(-1, 2).sum(0)
    return float(wrong / units) if units else float("nan")
