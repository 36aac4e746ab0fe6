"""CTC decoding: collapsing of the best path, and prefix beam search."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.downstream.asr.language import Language, Prefix
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.vocabulary import BLANK, Tokenizer
from streamnest.errors import UserError

# For each prefix: log-probability of the paths that end in a blank, and of those that end in its last token.
Beams = dict[Prefix, tuple[float, float]]


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
        beams: Beams = {Prefix.empty(self.language): (0.0, -math.inf)}
        for frame in log_probs.double().tolist():
            beams = self._extend(beams, frame)
        return ranked({prefix: log_add(*ends) for prefix, ends in beams.items()}, self.language)

    def _extend(self, beams: Beams, frame: list[float]) -> Beams:
        """Extends all prefixes by one frame, and returns the best ones."""
        likely = [(score, token) for token, score in enumerate(frame) if token != BLANK and score > self.least]
        likely.sort(reverse=True)
        after = self._kept_text(beams, frame)
        totals = [(log_add(*ends) + prefix.score, prefix, -1, 0.0) for prefix, ends in after.items()]
        worst = -math.inf if len(totals) < self.beam else heapq.nlargest(self.beam, map(_total, totals))[-1]
        totals += self._with_new_token(beams, likely, worst)
        best = totals if len(totals) <= self.beam else heapq.nlargest(self.beam, totals, key=_total)
        return {
            **{prefix: after[prefix] for _, prefix, token, _ in best if token < 0},
            **{p.extend(token, self.language): (-math.inf, score) for _, p, token, score in best if token >= 0},
        }

    def _kept_text(self, beams: Beams, frame: list[float]) -> Beams:
        """Returns the prefixes after a frame that adds no new one: blanks, repeats, and tokens that lead to another."""
        after: Beams = {}
        for prefix, (blank, token) in beams.items():
            repeated = -math.inf if prefix.parent is None else token + frame[prefix.token]
            if prefix.parent in beams and frame[prefix.token] > self.least:
                repeated = log_add(repeated, _before(prefix.parent, beams, prefix.token) + frame[prefix.token])
            after[prefix] = log_add(blank, token) + frame[BLANK], repeated
        return after

    def _with_new_token(self, beams: Beams, likely: list[tuple[float, int]], worst: float) -> list[_Candidate]:
        """Returns the extensions to prefixes outside the beam that score above `worst`.

        Args:
            beams: prefixes before the frame.
            likely: log-probability of each token in the frame, highest first.
            worst: total score below which no prefix is kept.
        """
        language, found = self.language, []
        for prefix, (blank, token) in beams.items():
            both = log_add(blank, token)
            # A log-probability adds at most what the look-ahead has subtracted.
            bound = both + prefix.score - language.lm_weight * prefix.state.expected + language.bonus
            for score, new in likely:
                if bound + score < worst:
                    break
                if prefix.extended.get(new) in beams:
                    continue
                # A repeated token is a new token only after a blank.
                acoustic = (blank if new == prefix.token else both) + score
                _, gain = language.after(prefix.state, new)
                total = acoustic + prefix.score + language.lm_weight * gain + language.bonus
                if total > worst:
                    found.append((total, prefix, new, acoustic))
        return found


# Total score, prefix before the frame, new token (-1 if there is none), and log-probability of the paths.
_Candidate = tuple[float, Prefix, int, float]


def _total(candidate: _Candidate) -> float:
    return candidate[0]


def _before(prefix: Prefix, beams: Beams, token: int) -> float:
    """Returns the log-probability of the paths of a prefix after which a token is new."""
    blank, last = beams[prefix]
    return blank if prefix.token == token else log_add(blank, last)


def ranked(scores: dict[Prefix, float], language: Language) -> list[Hypothesis]:
    """Adds the language model score to the acoustic score of each prefix; returns the hypotheses, best first."""
    final = {p: score + p.score + language.lm_weight * language.end(p.state) for p, score in scores.items()}
    hypotheses = [Hypothesis(prefix.tokens, score) for prefix, score in final.items()]
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def log_add(one: float, other: float) -> float:
    """Returns the logarithm of the sum of two probabilities."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
