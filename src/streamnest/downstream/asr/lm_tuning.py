"""Choice of the language model weight and the token bonus on held-out utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from streamnest.downstream.asr.ctc_decoding import Hypothesis
from streamnest.downstream.asr.vocabulary import Tokenizer, join
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, summarize

Search = Callable[[Tensor], list[Hypothesis]]
# First grid; then neighbors of the best pair at half and at a quarter of its steps.
_WEIGHTS, _BONUSES = (0.25, 0.75, 1.25, 1.75), (0.0, 1.0, 2.0)
_STEPS = ((0.25, 0.5), (0.125, 0.25))


@dataclass(frozen=True)
class Utterance:
    """Outputs `(T, E)` of a recognizer for one utterance, and its normalized transcript."""

    id: str
    outputs: Tensor
    reference: str


@dataclass(frozen=True)
class Trial:
    """Error rates with one pair of weights."""

    lm_weight: float
    bonus: float
    rates: dict[str, float]


def grid(evaluate: Callable[[float, float], dict[str, float]], unit: str) -> Iterator[Trial]:
    """Yields trials of a grid that is refined twice around the best pair.

    Args:
        evaluate: error rates of a weight and a bonus.
        unit: rate to minimize, "wer" or "cer".
    """
    trials: dict[tuple[float, float], Trial] = {}
    pairs = list(product(_WEIGHTS, _BONUSES))
    for steps in (*_STEPS, None):
        for pair in pairs:
            if pair[0] >= 0 and pair not in trials:
                trials[pair] = Trial(*pair, evaluate(*pair))
                yield trials[pair]
        if steps:
            top = best(list(trials.values()), unit)
            weights, bonuses = (
                (at - step, at, at + step) for at, step in zip((top.lm_weight, top.bonus), steps, strict=True)
            )
            pairs = list(product(weights, bonuses))


def best(trials: Sequence[Trial], unit: str) -> Trial:
    """Returns the trial with the lowest rate; of equal ones, that with the smallest weight and bonus."""
    return min(trials, key=lambda trial: (trial.rates[unit], trial.lm_weight, abs(trial.bonus)))


def rates_of(search: Search, tokenizer: Tokenizer, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Returns the error rates of a search over all utterances."""
    texts = [join(tokenizer, search(utterance.outputs)[0].tokens) for utterance in utterances]
    pairs = zip(utterances, texts, strict=True)
    return summarize([RecognizedUtterance(u.id, u.reference, text, None) for u, text in pairs])
