"""CTC decoding: collapsing of the best path, and prefix beam search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.downstream.asr.ngram import Language, NGram
from streamnest.downstream.asr.vocabulary import BLANK, Tokenizer
from streamnest.errors import UserError

# For each prefix: log-probability of the paths that end in a blank, and of those that end in its last token.
Beams = dict[tuple[int, ...], tuple[float, float]]


def collapse(best: Tensor, last: int = BLANK) -> tuple[list[int], int]:
    """Removes repeats and blanks from the best token of each frame `(T,)`.

    Args:
        best: best token of each of the next frames of one stream.
        last: best token of the previous frame.

    Returns:
        The tokens that begin in these frames, and `last` for the next call.
    """
    if not len(best):
        return [], last
    previous = torch.cat([best.new_tensor([last]), best[:-1]])
    return best[(best != previous) & (best != BLANK)].tolist(), int(best[-1])


@dataclass(frozen=True)
class Hypothesis:
    """Result of a beam search: tokens, and the score that ranks them, in nats."""

    tokens: tuple[int, ...]
    score: float


class BeamSearch:
    """CTC prefix beam search (Hannun et al. 2014) over one utterance, with or without an n-gram.

    The score of a prefix is the log-probability of all its paths plus the score of `Language`.

    Args:
        tokenizer: tokenizer of the model.
        beam: number of prefixes to keep.
        ngram: n-gram of words or characters, or None.
        lm_weight: argument of `Language`.
        bonus: argument of `Language`.
        least: tokens with a smaller log-probability do not extend a prefix.
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
            raise UserError(f"beam={beam}: must be at least 1")
        self.beam, self.least = beam, least
        self.language = Language(tokenizer, ngram, lm_weight, bonus)

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        """Returns the hypotheses for `(T, V)` log-probabilities, best first."""
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
    """Extends all prefixes by one frame; returns the log-probabilities of each."""
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
            # A repeated token is a new token only after a blank.
            add((*prefix, new), 1, (blank if prefix and new == prefix[-1] else both) + frame[new])
    return after


def ranked(scores: dict[tuple[int, ...], float], language: Language) -> list[Hypothesis]:
    """Adds the final language score to the acoustic score of each prefix; returns the hypotheses, best first."""
    hypotheses = [Hypothesis(tokens, score + language.score(tokens, final=True)) for tokens, score in scores.items()]
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def log_add(one: float, other: float) -> float:
    """Returns the logarithm of the sum of two probabilities."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
