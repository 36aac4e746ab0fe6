"""From frames of CTC log-probabilities to tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.downstream.ngram import NGram
from streamnest.downstream.text import BLANK, Tokenizer
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


def greedy(scores: Tensor, lengths: Tensor) -> list[list[int]]:
    """The tokens of each row of `(B, T, V)` scores with `lengths` `(B,)` valid frames."""
    best = scores.argmax(-1)
    return [collapse(row[:length])[0] for row, length in zip(best, lengths.tolist(), strict=True)]


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search found: its tokens and the score that ranked it, in nats."""

    tokens: tuple[int, ...]
    score: float


class BeamSearch:
    """Prefix beam search (Hannun et al. 2014), with an n-gram or without, over one utterance.

    A prefix is scored by all ways to spell it; the n-gram adds `lm_weight` times its log-probability for each whole
    unit (a character, or a word with the space or end after it) and `bonus` for each token.

    Args:
        tokenizer: of the model.
        beam: prefixes that are kept.
        ngram: of words or characters; None is none.
        lm_weight: of its score.
        bonus: nats for each token, against the liking of n-grams for short texts.
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
        self.tokenizer, self.beam, self.ngram = tokenizer, beam, ngram
        self.lm_weight, self.bonus, self.least = lm_weight, bonus if ngram else 0.0, least
        self._characters = ngram is not None and ngram.of_characters
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        """The best prefixes of `(T, V)` log-probabilities, best first."""
        self._known = {(): 0.0}
        beams: Beams = {(): (0.0, -math.inf)}
        for frame in log_probs.double().tolist():
            likely = [token for token, score in enumerate(frame) if token != BLANK and score > self.least]
            beams = self._best(_extend(beams, frame, likely))
        found = [Hypothesis(prefix, _add(*ends) + self._language(prefix, final=True)) for prefix, ends in beams.items()]
        return sorted(found, key=lambda hypothesis: -hypothesis.score)

    def _best(self, beams: Beams) -> Beams:
        scored = {p: _add(*ends) + self._language(p) for p, ends in beams.items()}
        kept = sorted(scored, key=lambda prefix: -scored[prefix])[: self.beam]
        return {prefix: beams[prefix] for prefix in kept}

    def _language(self, prefix: tuple[int, ...], final: bool = False) -> float:
        """What n-gram and bonus add to a prefix; `final` also counts its last word and the end."""
        if self.ngram is None:
            return 0.0
        if prefix not in self._known:
            before, now = self._units(prefix[:-1]), self._units(prefix)
            self._known[prefix] = self._known[prefix[:-1]] + self._score(now, len(before))
        score = self._known[prefix]
        if final:
            whole = [*self._units(prefix, final), "</s>"]
            score += self._score(whole, len(self._units(prefix)))
        return self.lm_weight * score + self.bonus * len(prefix)

    def _units(self, prefix: tuple[int, ...], final: bool = False) -> list[str]:
        """Characters, or words that have ended, of a prefix."""
        text = self.tokenizer.pieces(prefix).lstrip(" ")
        if self._characters:
            return ["<space>" if c == " " else c for c in text]
        words = text.split(" ")
        return [word for word in (words if final else words[:-1]) if word]

    def _score(self, units: list[str], first: int) -> float:
        """Log-probability of the units from number `first` on."""
        assert self.ngram is not None
        past = ("<s>", *units)
        return sum(self.ngram.log_prob(past[: at + 1], units[at]) for at in range(first, len(units)))


def _extend(beams: Beams, frame: list[float], likely: list[int]) -> Beams:
    """All prefixes after one more frame, each with its two log-probabilities."""
    after: Beams = {}

    def add(prefix: tuple[int, ...], end: int, score: float) -> None:
        if score == -math.inf:
            return
        blank, token = after.get(prefix, (-math.inf, -math.inf))
        more = _add(token if end else blank, score)
        after[prefix] = (blank, more) if end else (more, token)

    for prefix, (blank, token) in beams.items():
        both = _add(blank, token)
        add(prefix, 0, both + frame[BLANK])
        if prefix:
            add(prefix, 1, token + frame[prefix[-1]])
        for new in likely:
            # The same token again begins anew only after a blank.
            add((*prefix, new), 1, (blank if prefix and new == prefix[-1] else both) + frame[new])
    return after


def _add(one: float, other: float) -> float:
    """The logarithm of the sum of two probabilities."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
