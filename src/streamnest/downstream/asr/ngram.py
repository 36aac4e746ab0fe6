"""N-gram language models from ARPA files."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

from streamnest.downstream.asr.vocabulary import Tokenizer
from streamnest.errors import UserError

_LN10 = math.log(10.0)
_UNKNOWN_LOG10 = -10.0
Words = tuple[str, ...]


class NGram:
    """Back-off n-gram model of words or characters (Katz 1987).

    Args:
        scores: log10 probability and log10 back-off weight of each n-gram.
        order: length of the longest n-gram.
    """

    def __init__(self, scores: dict[Words, tuple[float, float]], order: int) -> None:
        self.scores, self.order = scores, order

    @classmethod
    def read(cls, path: str | Path) -> NGram:
        """Reads an ARPA file, plain or compressed (`.gz`).

        Raises:
            UserError: for a file that is not a valid ARPA file.
        """
        path = Path(path)
        scores: dict[Words, tuple[float, float]] = {}
        order = 0
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
                for line in map(str.strip, lines):
                    if line.endswith("-grams:"):
                        order = int(line[1:].split("-")[0])
                    elif order and line and not line.startswith("\\"):
                        probability, words, *backoff = line.split("\t")
                        scores[tuple(words.split(" "))] = float(probability), float(backoff[0]) if backoff else 0.0
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as an ARPA file: {error}") from None
        if not scores:
            raise UserError(f"{path} has no n-grams: give a language model in ARPA format")
        return cls(scores, max(map(len, scores)))

    @property
    def of_characters(self) -> bool:
        """True if all units are single characters; a space is then written `<space>`."""
        return all(len(word) == 1 or word.startswith("<") for (word, *rest) in self.scores if not rest)

    def log_prob(self, context: Words, word: str) -> float:
        """Returns the natural logarithm of the probability of a word after a context."""
        context = context[max(0, len(context) - self.order + 1) :]
        backoff = 0.0
        while True:
            entry = self.scores.get((*context, word))
            if entry:
                return _LN10 * (backoff + entry[0])
            if not context:
                return _LN10 * (backoff + self.scores.get(("<unk>",), (_UNKNOWN_LOG10, 0.0))[0])
            backoff += self.scores.get(context, (0.0, 0.0))[1]
            context = context[1:]


class Language:
    """Language model score of prefixes of tokens, for beam searches.

    The score is `lm_weight` times the log-probability of each complete unit (a character, or a word that is followed
    by a space or the end) plus `bonus` for each token. Without an n-gram it is 0.

    Args:
        tokenizer: tokenizer of the model.
        ngram: n-gram of words or characters, or None.
        lm_weight: weight of the log-probability of the n-gram.
        bonus: nats for each token, which compensates the preference of n-grams for short texts.
    """

    def __init__(self, tokenizer: Tokenizer, ngram: NGram | None, lm_weight: float, bonus: float) -> None:
        self.tokenizer, self.ngram, self.lm_weight, self.bonus = tokenizer, ngram, lm_weight, bonus
        self._characters = ngram is not None and ngram.of_characters
        self._known: dict[tuple[int, ...], float] = {}

    def begin(self) -> None:
        """Clears the cache for a new utterance."""
        self._known = {(): 0.0}

    def score(self, prefix: tuple[int, ...], final: bool = False) -> float:
        """Returns the score in nats of a prefix; all shorter prefixes must have been scored before.

        Args:
            prefix: tokens.
            final: include the last word and the end of the sentence.
        """
        if self.ngram is None:
            return 0.0
        if prefix not in self._known:
            before, now = self._units(prefix[:-1]), self._units(prefix)
            self._known[prefix] = self._known[prefix[:-1]] + self._sum(now, len(before))
        score = self._known[prefix]
        if final:
            whole = [*self._units(prefix, final), "</s>"]
            score += self._sum(whole, len(self._units(prefix)))
        return self.lm_weight * score + self.bonus * len(prefix)

    def _units(self, prefix: tuple[int, ...], final: bool = False) -> list[str]:
        """Returns the complete units of a prefix: characters, or words that a space has ended."""
        text = self.tokenizer.pieces(prefix).lstrip(" ")
        if self._characters:
            return ["<space>" if c == " " else c for c in text]
        words = text.split(" ")
        return [word for word in (words if final else words[:-1]) if word]

    def _sum(self, units: list[str], first: int) -> float:
        """Returns the log-probability of the units from index `first`."""
        assert self.ngram is not None
        past = ("<s>", *units)
        return sum(self.ngram.log_prob(past[: at + 1], units[at]) for at in range(first, len(units)))
