"""From frames of CTC log-probabilities to tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.downstream.asr.ngram import Language, NGram
from streamnest.downstream.asr.vocabulary import BLANK, Tokenizer
from streamnest.errors import UserError

# Of each prefix: log-probability of ending in a blank, and in its last token.
Beams = dict[tuple[int, ...], tuple[float, float]]


def collapse(best: Tensor, last: int = BLANK) -> tuple[list[int], int]:
    """Repeats and blanks removed from the best token of each frame `(T,)`.

    Args:
        best: tokens of the next frames of one stream.
        last: token of the frame before them.

    Returns:
        The tokens that begin in these frames, and the `last` of the next call.
    """
    if not len(best):
        return [], last
    previous = torch.cat([best.new_tensor([last]), best[:-1]])
    return best[(best != previous) & (best != BLANK)].tolist(), int(best[-1])


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search found: its tokens and the score that ranked it, in nats."""

    tokens: tuple[int, ...]
    score: float


class BeamSearch:
    """Prefix beam search (Hannun et al. 2014), with an n-gram or without, over one utterance.

    A prefix is scored by all ways to spell it, and by the n-gram as `Language` says.

    Args:
        tokenizer: of the model.
        beam: prefixes that are kept.
        ngram: of words or characters; None is none.
        lm_weight: see `Language`.
        bonus: see `Language`.
        least: tokens less likely than this, in nats, begin no prefix.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        beam: int = 16,
        ngram: NGram | None = None,
        lm_weight: float = 0.5,
        bonus: float = 0.5,
        least: float = -8.0,
    ) -> None:
        if beam < 1:
            raise UserError(f"beam={beam}: keep at least one prefix")
        self.beam, self.least = beam, least
        self.language = Language(tokenizer, ngram, lm_weight, bonus)

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        """The best prefixes of `(T, V)` log-probabilities, best first."""
        self.language.begin()
        beams: Beams = {(): (0.0, -math.inf)}
        for frame in log_probs.double().tolist():
            likely = [token for token, score in enumerate(frame) if token != BLANK and score > self.least]
            beams = self._best(_extend(beams, frame, likely))
        return ranked({prefix: log_add(*ends) for prefix, ends in beams.items()}, self.language)

    def _best(self, beams: Beams) -> Beams:
        scored = {p: log_add(*ends) + self.language.score(p) for p, ends in beams.items()}
        kept = sorted(scored, key=lambda prefix: -scored[prefix])[: self.beam]
        return {prefix: beams[prefix] for prefix in kept}


def _extend(beams: Beams, frame: list[float], likely: list[int]) -> Beams:
    """All prefixes after one more frame, each with its two log-probabilities."""
    after: Beams = {}

    def add(prefix: tuple[int, ...], end: int, score: float) -> None:
        if score == -math.inf:
            return
        blank, token = after.get(prefix, (-math.inf, -math.inf))
        more = log_add(token if end else blank, score)
        after[prefix] = (blank, more) if end else (more, token)

    for prefix, (blank, token) in beams.items():
        both = log_add(blank, token)
        add(prefix, 0, both + frame[BLANK])
        if prefix:
            add(prefix, 1, token + frame[prefix[-1]])
        for new in likely:
            # The same token again begins anew only after a blank.
            add((*prefix, new), 1, (blank if prefix and new == prefix[-1] else both) + frame[new])
    return after


def ranked(scores: dict[tuple[int, ...], float], language: Language) -> list[Hypothesis]:
    """Whole texts with the scores of their sounds and of the language, best first."""
    found = [Hypothesis(tokens, score + language.score(tokens, final=True)) for tokens, score in scores.items()]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def log_add(one: float, other: float) -> float:
    """The logarithm of the sum of two probabilities."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
