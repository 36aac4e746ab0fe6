"""N-gram language models in ARPA form."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

from streamnest.errors import UserError

_LN10 = math.log(10.0)
_UNKNOWN_LOG10 = -10.0
Words = tuple[str, ...]


class NGram:
    """A back-off model of words or characters (Katz 1987).

    Args:
        scores: log10 probability and log10 back-off weight of each n-gram.
        order: the longest n.
    """

    def __init__(self, scores: dict[Words, tuple[float, float]], order: int) -> None:
        self.scores, self.order = scores, order

    @classmethod
    def read(cls, path: str | Path) -> NGram:
        """Reads an ARPA file, `.gz` or not.

        Raises:
            UserError: for a file that is none.
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
            raise UserError(f"{path} holds no n-grams: is it an ARPA file?")
        return cls(scores, max(map(len, scores)))

    @property
    def of_characters(self) -> bool:
        """Whether its units are single characters; a space is then written `<space>`."""
        return all(len(word) == 1 or word.startswith("<") for (word, *rest) in self.scores if not rest)

    def log_prob(self, context: Words, word: str) -> float:
        """Natural logarithm of the probability of a word after others."""
        context = context[max(0, len(context) - self.order + 1) :]
        backoff = 0.0
        while True:
            found = self.scores.get((*context, word))
            if found:
                return _LN10 * (backoff + found[0])
            if not context:
                return _LN10 * (backoff + self.scores.get(("<unk>",), (_UNKNOWN_LOG10, 0.0))[0])
            backoff += self.scores.get(context, (0.0, 0.0))[1]
            context = context[1:]
