"""tokens.txt: the vocabulary as sherpa-onnx reads it."""

from __future__ import annotations

from pathlib import Path

from streamnest.downstream.asr.vocabulary import Tokenizer
from streamnest.errors import UserError

BLANK = "<blk>"
_SPACE = "\u2581"
# sherpa-onnx takes a vocabulary whose largest byte is this one for an encoding of bytes.
_LARGEST_OF_BYTE_BPE = 0xC6


def write_tokens(tokenizer: Tokenizer, path: Path) -> None:
    """Writes one token a line, `symbol id`, the blank last.

    Raises:
        UserError: for a vocabulary that the runtime would read in another way.
    """
    symbols = [*(tokenizer.pieces([token]) or "<unk>" for token in range(1, tokenizer.size)), BLANK]
    symbols = [symbol.replace(" ", _SPACE) for symbol in symbols]
    if odd := [symbol for symbol in symbols if symbol.split() != [symbol]]:
        raise UserError(f"the token {odd[0]!r} contains white space, which tokens.txt of sherpa-onnx cannot express")
    if max(max(symbol.removeprefix(_SPACE).encode(), default=0) for symbol in symbols) == _LARGEST_OF_BYTE_BPE:
        raise UserError(
            "sherpa-onnx would take this vocabulary for bytes, because its last character is one of U+0180 to U+01BF: "
            "train with a vocabulary that also has a later character"
        )
    lines = [f"{symbol} {number}\n" for number, symbol in enumerate(symbols)]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
