"""N-gram language models in ARPA files."""

from __future__ import annotations

import gzip
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streamnest.errors import UserError, cause_of
from streamnest.files.atomic_write import whole

BEGIN, END, UNKNOWN, SPACE = "<s>", "</s>", "<unk>", "<space>"
WORD_MARK = "\u2581"  # the space of sentencepiece, at the start of a piece
LN10 = math.log(10.0)
# Stands for the unknown unit in files without `<unk>`.
UNKNOWN_LOG10 = -10.0
Words = tuple[str, ...]


class NGram:
    """Back-off n-gram model of words, characters or word pieces (Katz 1987).

    Args:
        scores: log10 probability and log10 back-off weight of each n-gram.
        order: length of the longest n-gram.
    """

    def __init__(self, scores: dict[Words, tuple[float, float]], order: int) -> None:
        self.scores, self.order = scores, order
        self.vocabulary: Collection[str] = {words[0] for words in scores if len(words) == 1}

    @classmethod
    def read(cls, path: str | Path) -> NGram:
        """Reads an ARPA file, plain or compressed (`.gz`).

        Raises:
            UserError: for a file that is not a valid ARPA file.
        """
        scores: dict[Words, tuple[float, float]] = {}
        with _readable(Path(path)) as lines:
            for _, line in _entries(lines):
                probability, words, *backoff = line.split("\t")
                scores[tuple(words.split(" "))] = float(probability), float(backoff[0]) if backoff else 0.0
        if not scores:
            raise UserError(f"{path} has no n-grams: give a language model in ARPA format")
        return cls(scores, max(map(len, scores)))

    def write(self, path: str | Path) -> None:
        """Writes an ARPA file, compressed if the name ends in `.gz`; equal models give equal files."""
        path = Path(path)
        with whole(path) as part, part.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    packed.writelines(line.encode() for line in self._lines())
            else:
                raw.writelines(line.encode() for line in self._lines())

    @property
    def units(self) -> str:
        """Kind of the units: "characters" (a space is `<space>`), "pieces" (words begin with U+2581) or "words"."""
        plain = [unit for unit in self.vocabulary if unit not in (BEGIN, END, UNKNOWN, SPACE)]
        if any(unit.startswith(WORD_MARK) for unit in plain):
            return "pieces"
        return "characters" if all(len(unit) == 1 for unit in plain) else "words"

    def log_prob(self, context: Words, unit: str) -> float:
        """Returns the natural logarithm of the probability of a unit after a context."""
        context = context[max(0, len(context) - self.order + 1) :]
        backoff = 0.0
        while True:
            entry = self.scores.get((*context, unit))
            if entry:
                return LN10 * (backoff + entry[0])
            if not context:
                return LN10 * (backoff + self.scores.get((UNKNOWN,), (UNKNOWN_LOG10, 0.0))[0])
            backoff += self.scores.get(context, (0.0, 0.0))[1]
            context = context[1:]

    def known(self, unit: str) -> str:
        """Returns the unit, or `<unk>` if the vocabulary lacks it."""
        return unit if unit in self.vocabulary else UNKNOWN

    def _lines(self) -> Iterator[str]:
        orders: list[list[Words]] = [[] for _ in range(self.order)]
        for words in sorted(self.scores):
            orders[len(words) - 1].append(words)
        yield "\\data\\\n"
        yield from (f"ngram {n}={len(grams)}\n" for n, grams in enumerate(orders, 1))
        for n, grams in enumerate(orders, 1):
            yield f"\n\\{n}-grams:\n"
            for words in grams:
                probability, backoff = self.scores[words]
                weight = f"\t{backoff:.7g}" if n < self.order else ""
                yield f"{probability:.7g}\t{' '.join(words)}{weight}\n"
        yield "\n\\end\\\n"


def unigrams(path: Path) -> set[str]:
    """Returns the units of an ARPA file; reads only its first section.

    Raises:
        UserError: for a file that is not a valid ARPA file.
    """
    units = set()
    with _readable(path) as lines:
        for order, line in _entries(lines):
            if order > 1:
                break
            units.add(line.split("\t")[1])
    return units


@contextmanager
def _readable(path: Path) -> Iterator[IO[str]]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            yield lines
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read as an ARPA file: {cause_of(error)}") from None


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yields order and line of each n-gram."""
    order = 0
    # `str.strip` would also remove a no-break space, which can be a unit.
    for line in (line.strip("\r\n\t ") for line in lines):
        if line.startswith("\\") and line.endswith("-grams:"):
            order = int(line[1:].split("-")[0])
        elif line == "\\end\\":
            return
        elif order and line:
            yield order, line
    raise ValueError("it ends before its line \\end\\: it is incomplete")
