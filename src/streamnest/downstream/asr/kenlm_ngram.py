"""N-gram language models queried with the package kenlm, if it is installed (`pip install '.[lm]'`)."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from streamnest.downstream.asr.ngram import BEGIN, LN10, UNKNOWN, UNKNOWN_LOG10, NGram, Words, unigrams
from streamnest.errors import UserError, cause_of

_MAGIC = b"mmap lm http://kheafield.com/code"
# The log10 probability that KenLM gives to unknown units of a file without `<unk>`.
_KENLM_UNKNOWN_LOG10 = -100.0
_MOST_STATES = 200_000


class KenLM(NGram):
    """Model queried by KenLM (Heafield 2011), with the scores of `NGram`; loads in less time and memory.

    Args:
        path: ARPA file, or binary file of KenLM's build_binary, which must include its vocabulary.

    Raises:
        ImportError: without kenlm.
        RuntimeError: for a file that kenlm refuses, for instance for its order.
        UserError: for a binary file without vocabulary.
    """

    def __init__(self, path: Path) -> None:
        import kenlm

        config = kenlm.Config()
        config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
        self._kenlm, self._model = kenlm, kenlm.Model(str(path), config)
        self.scores, self.order = {}, self._model.order
        self.vocabulary = _binary_vocabulary(path) if is_binary(path) else unigrams(path)
        self._missing = 0.0 if UNKNOWN in self.vocabulary else UNKNOWN_LOG10 - _KENLM_UNKNOWN_LOG10
        self._states: dict[Words, Any] = {}

    def log_prob(self, context: Words, unit: str) -> float:
        """Implements `NGram.log_prob`."""
        context = context[max(0, len(context) - self.order + 1) :]
        score: float = self._model.BaseScore(self._state(context), unit, self._kenlm.State())
        return LN10 * (score + (0.0 if unit in self.vocabulary else self._missing))

    def _state(self, context: Words) -> Any:
        state = self._states.get(context)
        if state is None:
            if len(self._states) > _MOST_STATES:
                self._states.clear()
            state = self._kenlm.State()
            if not context:
                self._model.NullContextWrite(state)
            elif context == (BEGIN,):
                self._model.BeginSentenceWrite(state)
            else:
                self._model.BaseScore(self._state(context[:-1]), context[-1], state)
            self._states[context] = state
        return state


def read_ngram(path: str | Path) -> NGram:
    """Reads a language model, with kenlm if it is installed and can read it.

    Raises:
        UserError: for a file that cannot be read, and for a binary file without kenlm.
    """
    path = Path(path)
    try:
        return KenLM(path)
    except ImportError:
        if is_binary(path):
            raise UserError(f"{path} is a binary file of KenLM: pip install '.[lm]', or give an ARPA file") from None
    except (OSError, RuntimeError) as error:
        if is_binary(path):
            raise UserError(f"{path} cannot be read by kenlm: {error}") from None
    return NGram.read(path)


def is_binary(path: Path) -> bool:
    """Returns True for a binary file of KenLM."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise UserError(f"{path} cannot be read as a language model: {cause_of(error)}") from None


def _binary_vocabulary(path: Path) -> set[str]:
    """Returns the units of a binary file; they are its last part, and the first one is `<unk>`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(b"<unk>\0")
        if start < 0:
            raise UserError(f"{path} has no vocabulary: build it without `-v` of build_binary, or give the ARPA file")
        return {unit.decode(errors="replace") for unit in content[start:].split(b"\0") if unit}
