"""Estimation of n-gram language models by interpolated modified Kneser-Ney smoothing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamnest.downstream.asr.ngram import BEGIN, END, UNKNOWN, NGram, Words

# `<s>` is only ever a context; ARPA files give it this log10 probability.
_NEVER = -99.0
# Discounts of counts 1, 2 and more, for orders whose counts do not determine them, as KenLM recommends.
_FALLBACK = (0.5, 1.0, 1.5)
_Counts = Counter[Words]


@dataclass(frozen=True)
class Estimate:
    """Estimated model.

    Attributes:
        ngram: the model.
        discounts: discounts of counts 1, 2 and more, for each order.
        fallback: orders whose counts do not determine their discounts.
    """

    ngram: NGram
    discounts: list[tuple[float, ...]]
    fallback: list[int]


def estimate(sentences: Iterable[Sequence[str]], order: int) -> Estimate:
    """Estimates an interpolated modified Kneser-Ney model (Chen and Goodman 1998), with the choices of KenLM.

    The discounts of each order come from its counts. All lower orders use the number of distinct units that precede an
    n-gram, except for n-grams at the start of a sentence, which keep their frequency. The unigram is interpolated with
    a uniform distribution over the vocabulary, which includes `<unk>` and `</s>`.

    Args:
        sentences: units of each sentence.
        order: length of the longest n-gram; smaller if no sentence is as long.

    Returns:
        The model, whose probabilities after each context sum to one.
    """
    counts = [grams for grams in adjusted_counts(sentences, order) if grams]
    found = [_discounts(grams) for grams in counts]
    discounts = [values or _FALLBACK for values in found]
    log10: dict[Words, float] = {(BEGIN,): _NEVER}
    backoff: dict[Words, float] = {}
    # The uniform distribution is over all units but `<s>`.
    lower: dict[Words, float] = {(): 1 / (len(counts[0]) + 1)}
    for grams, values in zip(counts, discounts, strict=True):
        weights, lower = _interpolated(grams, values, lower)
        if () in weights:
            lower[UNKNOWN,] = weights[()] / (len(counts[0]) + 1)
        backoff |= {context: math.log10(weight) for context, weight in weights.items()}
        log10 |= {words: math.log10(probability) for words, probability in lower.items()}
    scores = {words: (value, backoff.get(words, 0.0)) for words, value in log10.items()}
    fallback = [n for n, values in enumerate(found, 1) if values is None]
    return Estimate(NGram(scores, len(counts)), discounts, fallback)


def adjusted_counts(sentences: Iterable[Sequence[str]], order: int) -> list[_Counts]:
    """Returns the counts of each order from 1: frequencies at the highest order, numbers of preceding units below."""
    counts: list[_Counts] = [Counter() for _ in range(order)]
    for sentence in sentences:
        units = (BEGIN, *sentence, END)
        counts[-1].update(units[start : start + order] for start in range(len(units) - order + 1))
        for n in range(2, min(order, len(units) + 1)):
            counts[n - 1][units[:n]] += 1
    for n in range(order - 1, 0, -1):
        counts[n - 1].update(words[1:] for words in counts[n])
    del counts[0][BEGIN,]
    return counts


def _discounts(grams: _Counts) -> tuple[float, ...] | None:
    """Returns the discounts of counts 1, 2 and more; None if the counts do not determine them."""
    t = Counter(grams.values())
    if not all(t[count] for count in (1, 2, 3, 4)):
        return None
    y = t[1] / (t[1] + 2 * t[2])
    found = tuple(count - (count + 1) * y * t[count + 1] / t[count] for count in (1, 2, 3))
    return found if all(0 < discount <= count for count, discount in enumerate(found, 1)) else None


def _interpolated(
    grams: _Counts, discounts: Sequence[float], lower: dict[Words, float]
) -> tuple[dict[Words, float], dict[Words, float]]:
    """Returns the back-off weight of each context, and the probability of each n-gram of one order.

    Args:
        grams: adjusted counts.
        discounts: discounts of counts 1, 2 and more.
        lower: probabilities of the next lower order.
    """
    totals: dict[Words, int] = defaultdict(int)
    removed: dict[Words, float] = defaultdict(float)
    for words, count in grams.items():
        totals[words[:-1]] += count
        removed[words[:-1]] += discounts[min(count, 3) - 1]
    weights = {context: removed[context] / total for context, total in totals.items()}
    return weights, {
        words: (count - discounts[min(count, 3) - 1]) / totals[words[:-1]] + weights[words[:-1]] * lower[words[1:]]
        for words, count in grams.items()
    }


@dataclass(frozen=True)
class Perplexity:
    """Fit of a model to held-out sentences.

    Attributes:
        nats: negative log-probability of all units and sentence ends.
        units: number of units and sentence ends.
        unknown: number of units that the vocabulary lacks; they count with the probability of `<unk>`.
    """

    nats: float
    units: int
    unknown: int

    @property
    def per_unit(self) -> float:
        """Perplexity per unit."""
        return math.exp(self.nats / self.units)


def perplexity(ngram: NGram, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Measures the perplexity of held-out sentences."""
    nats, units, unknown = 0.0, 0, 0
    for sentence in sentences:
        known = [ngram.known(unit) for unit in (*sentence, END)]
        past = (BEGIN, *known)
        nats -= sum(ngram.log_prob(past[max(0, at + 1 - ngram.order) : at + 1], u) for at, u in enumerate(known))
        units, unknown = units + len(known), unknown + known.count(UNKNOWN)
    return Perplexity(nats, units, unknown)
