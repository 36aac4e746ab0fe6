"""Budget of average latency: which context a stream can afford for its next chunk."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence

from streamnest.errors import UserError
from streamnest.streaming.adaptive.contexts import AdaptiveContext

# Bound of the growth of `Budget.scale_ms`.
_MOST_GROWTH = 4.0
# Default number of recent scores that a score is ranked among.
RANKED = 256


class Budget:
    """Keeps the average algorithmic latency of a stream at or below a budget, from its first chunk on (token bucket).

    A chunk with less latency than the budget earns credit, frames times milliseconds, and one with more spends it. A
    context whose chunk would make the credit negative is not affordable, so the running average over frames exceeds the
    budget at no chunk boundary, whatever latencies are wanted.

    Args:
        contexts: contexts from `adaptive_contexts`.
        budget_ms: largest average latency.

    Attributes:
        credit: latency saved so far, in frames times milliseconds.

    Raises:
        UserError: for a budget below the latency of the smallest context.
    """

    def __init__(self, contexts: Sequence[AdaptiveContext], budget_ms: float) -> None:
        least = contexts[0]
        if not least.mean_ms <= budget_ms < math.inf:
            raise UserError(
                f"an average latency of {budget_ms:g} ms cannot be met: the smallest context, {least.name}, has "
                f"{least.mean_ms:g} ms; give at least that"
            )
        self.contexts, self.budget_ms, self.credit = contexts, budget_ms, 0.0
        # Credit that the most expensive chunk takes.
        self._capacity = max(*(-self._gain(context) for context in contexts), budget_ms)

    @property
    def scale_ms(self) -> float:
        """Latency that the highest rank stands for: twice the budget, growing with the credit until it is spent."""
        return 2 * self.budget_ms * math.exp(min(self.credit / self._capacity, _MOST_GROWTH))

    def choose(self, wanted_ms: float) -> AdaptiveContext:
        """Returns the largest affordable context whose average latency is at most `wanted_ms`, and spends its latency.

        The smallest context is always affordable.
        """
        affordable = [c for c in self.contexts[1:] if c.mean_ms <= wanted_ms and self.credit + self._gain(c) >= 0]
        choice = affordable[-1] if affordable else self.contexts[0]
        self.credit += self._gain(choice)
        return choice

    def credit_after(self, frames: Mapping[str, int], choice: AdaptiveContext | None) -> float:
        """Computes the credit of a stream with `frames` frames of each context, and a next chunk that is chosen."""
        credit = sum(frames[context.name] * (self.budget_ms - context.mean_ms) for context in self.contexts)
        return credit + (self._gain(choice) if choice else 0.0)

    def _gain(self, context: AdaptiveContext) -> float:
        return context.frames * (self.budget_ms - context.mean_ms)


class Ranks:
    """Ranks of scores among the recent scores of a stream, which need no scale: 0 is the lowest, 1 the highest.

    Args:
        scores: scores so far, from the first to the last.
        window: number of recent scores.
    """

    def __init__(self, scores: Sequence[float] = (), window: int = RANKED) -> None:
        self._recent = deque(scores, maxlen=window)
        self._sorted = sorted(self._recent)

    @property
    def scores(self) -> list[float]:
        """The recent scores, from the first to the last."""
        return list(self._recent)

    def rank(self, score: float) -> float:
        """Returns the rank of a score among those before it, and adds it; 0.5 for the first and for NaN."""
        if math.isnan(score):
            return 0.5
        low, high, number = bisect_left(self._sorted, score), bisect_right(self._sorted, score), len(self._sorted)
        if len(self._recent) == self._recent.maxlen:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(score)
        insort(self._sorted, score)
        return (low + high) / (2 * number) if number else 0.5
