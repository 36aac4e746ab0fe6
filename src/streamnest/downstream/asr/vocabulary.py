"""Text normalization and tokenizers; token 0 is the blank of CTC and RNN-T."""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from streamnest.errors import UserError

BLANK = 0
_MARK = "\u2581"  # the space of sentencepiece


# Letters and marks without a glyph: fillers and variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def normalize_text(text: str) -> str:
    """Normalizes a text to lower-case words of letters, digits and apostrophes, separated by one space.

    Invisible characters (soft hyphens, joiners and non-joiners, direction and byte order marks) are removed, so that
    they count neither in training nor in error rates.
    """
    visible = "".join(c for c in _INVISIBLE.sub("", text) if unicodedata.category(c) != "Cf")
    lower = unicodedata.normalize("NFKC", visible).lower().replace("\u2019", "'")
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in lower)
    return re.sub(r"\s+", " ", kept).strip()


class Tokenizer(Protocol):
    """Interface of a tokenizer: texts to token ids from 1 to `size - 1`, and back."""

    @property
    def size(self) -> int:
        """Number of tokens, including the blank."""

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""

    def pieces(self, ids: Iterable[int]) -> str:
        """Returns the text that tokens append; it may begin with a space."""

    def plain(self) -> dict[str, Any]:
        """Returns plain containers for `load_tokenizer`."""


class CharTokenizer:
    """Character tokenizer; characters that the training texts do not use are dropped.

    Args:
        symbols: characters in the order of their tokens.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols, 1)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> CharTokenizer:
        """Builds a tokenizer from normalized training texts."""
        return cls(sorted(set().union(*map(set, texts))))

    @property
    def size(self) -> int:
        """Number of tokens, including the blank."""
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        return [self._ids[c] for c in text if c in self._ids]

    def pieces(self, ids: Iterable[int]) -> str:
        """Returns the characters of tokens."""
        return "".join(self.symbols[i - 1] for i in ids)

    def plain(self) -> dict[str, Any]:
        """Returns plain containers for `load_tokenizer`."""
        return {"kind": "char", "symbols": self.symbols}


class SentencePieceTokenizer:
    """Word piece tokenizer (Kudo and Richardson 2018); needs the package sentencepiece.

    Args:
        model: serialized sentencepiece model.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)

    @classmethod
    def of(cls, texts: Iterable[str], size: int) -> SentencePieceTokenizer:
        """Trains a model on normalized texts; it has fewer than `size` tokens if the texts do not yield as many.

        Raises:
            UserError: for a size that sentencepiece refuses.
        """
        written = io.BytesIO()
        options = {"character_coverage": 1.0, "hard_vocab_limit": False, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
        train = _sentencepiece().SentencePieceTrainer.train
        try:
            train(sentence_iterator=iter(texts), model_writer=written, vocab_size=size - 1, **options)
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2].strip() or str(error).strip()
            raise UserError(
                f"task.vocab_size={size} (including the blank) does not fit the training texts: {reason}; choose "
                "another size, or task.tokenizer=char"
            ) from None
        return cls(written.getvalue())

    @property
    def size(self) -> int:
        """Number of tokens, including the blank."""
        return self._processor.get_piece_size() + 1

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        return [i + 1 for i in self._processor.encode(text)]

    def pieces(self, ids: Iterable[int]) -> str:
        """Returns the characters of tokens, with spaces at word boundaries; unknown pieces are dropped."""
        known = [i - 1 for i in ids if not self._processor.is_unknown(i - 1)]
        return "".join(self._processor.id_to_piece(i).replace(_MARK, " ") for i in known)

    def plain(self) -> dict[str, Any]:
        """Returns plain containers for `load_tokenizer`."""
        return {"kind": "sentencepiece", "model": base64.b64encode(self.model).decode()}


def make_tokenizer(kind: str, texts: Iterable[str], size: int) -> Tokenizer:
    """Builds a tokenizer from normalized training texts.

    Args:
        kind: "char" or "sentencepiece".
        texts: texts of the training set.
        size: number of sentencepiece tokens, including the blank.

    Raises:
        UserError: for another kind, for a training set without text, and for a size that does not fit.
    """
    if kind not in ("char", "sentencepiece"):
        raise UserError(f"task.tokenizer={kind!r} is unknown: choose char or sentencepiece")
    kept = [text for text in texts if text]
    if not kept:
        raise UserError("the training set has no text to build a tokenizer from: check the manifest and data.languages")
    return CharTokenizer.of(kept) if kind == "char" else SentencePieceTokenizer.of(kept, size)


def load_tokenizer(plain: Any) -> Tokenizer:
    """Restores a tokenizer from the result of `plain`.

    Raises:
        UserError: for any other data.
    """
    try:
        if plain["kind"] == "char":
            return CharTokenizer(plain["symbols"])
        if plain["kind"] == "sentencepiece":
            return SentencePieceTokenizer(base64.b64decode(plain["model"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer in the checkpoint is not valid: {error!r}") from None
    raise UserError(
        f"the tokenizer in the checkpoint has the unknown kind {plain['kind']!r}: expected char or sentencepiece"
    )


def join(tokenizer: Tokenizer, ids: Iterable[int], begun: bool = False) -> str:
    """Returns the text of tokens, without the space at the start of a transcript."""
    text = tokenizer.pieces(ids)
    return text if begun else text.lstrip(" ")


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            "task.tokenizer=sentencepiece needs the package sentencepiece: pip install sentencepiece, or choose char"
        ) from None
    return sentencepiece
