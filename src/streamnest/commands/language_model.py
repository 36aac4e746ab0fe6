"""Makes an n-gram language model for recognition: `streamnest language-model`."""

from __future__ import annotations

import argparse
import gzip
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from streamnest.checkpoint.loading import load_model
from streamnest.commands.arguments.language_model import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable
from streamnest.data.labels import label_of, suitable
from streamnest.data.manifest import load_cuts
from streamnest.downstream.asr.kneser_ney import estimate, perplexity
from streamnest.downstream.asr.ngram import SPACE, WORD_MARK, NGram
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import SentencePieceTokenizer, normalize_text
from streamnest.errors import UserError, cause_of

Splitter = Callable[[str], list[str]]


def splitter(units: str, tokenizer: str | None) -> Splitter:
    """Returns the function that splits a normalized text into units.

    Raises:
        UserError: for a checkpoint without a sentencepiece tokenizer.
    """
    if units == "words":
        return str.split
    if tokenizer is None:
        return lambda text: [SPACE if letter == " " else letter for letter in text]
    model = load_model(tokenizer)
    if not isinstance(model, TextTask) or not isinstance(model.tokenizer, SentencePieceTokenizer):
        raise UserError(
            f"--tokenizer {tokenizer}: expected a recognizer of task.tokenizer=sentencepiece; for characters leave out "
            "--units pieces"
        )
    found = model.tokenizer
    return lambda text: [found.pieces([token]).replace(" ", WORD_MARK) for token in found.encode(text)]


def texts_of_cuts(path: str, languages: list[str] | None) -> Iterator[str]:
    """Yields the normalized transcripts of a manifest, whose audio is not needed."""
    cuts, report = load_cuts(path, check_files=False, min_duration=1e-3, max_duration=math.inf)
    for cut in suitable(cuts, languages, True, report.counts):
        yield normalize_text(label_of(cut).text or "")


def texts_of_file(path: Path) -> Iterator[str]:
    """Yields the normalized lines of a text file.

    Raises:
        UserError: for a file that is not UTF-8 text.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            yield from map(normalize_text, lines)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {cause_of(error)}") from None


def training_texts(args: argparse.Namespace) -> list[str]:
    """Returns all texts to estimate the model from.

    Raises:
        UserError: if there is none.
    """
    sources = [
        *((path, texts_of_cuts(path, args.languages)) for path in args.manifest),
        *((path, texts_of_file(path)) for path in args.text),
    ]
    texts = []
    for path, source in sources:
        found = [text for text in source if text]
        print(f"{printable(path)}: {len(found)} texts")
        texts += found
    if not texts:
        raise UserError("there is no text to estimate a language model from: check --manifest, --text and --languages")
    return texts


def held_out_texts(args: argparse.Namespace) -> list[str]:
    """Returns the texts of `--eval`.

    Raises:
        UserError: if there is none.
    """
    is_text = args.eval.endswith((".txt", ".txt.gz"))
    source = texts_of_file(Path(args.eval)) if is_text else texts_of_cuts(args.eval, args.languages)
    held_out = [text for text in source if text]
    if not held_out:
        raise UserError(f"--eval {args.eval} has no text: check the file and --languages")
    return held_out


def evaluation(
    ngram: NGram, split: Splitter, args: argparse.Namespace, training: list[str], held_out: list[str]
) -> str:
    """Returns a line on the perplexity of held-out texts."""
    found = perplexity(ngram, map(split, held_out))
    unknown = f"{found.unknown / found.units:.1%} unknown"
    line = f"{printable(args.eval)}: {len(held_out)} texts, perplexity {found.per_unit:.4g} per"
    line = f"{line} {args.units.removesuffix('s')} ({unknown})"
    if not found.unknown:
        # The end of each text is predicted like a character.
        bits = found.nats / math.log(2) / sum(len(text) + 1 for text in held_out)
        line = f"{line}, {bits:.3f} bits per character"
    shared = sum(map(set(training).__contains__, held_out))
    return f"{line}; {shared} texts also occur in the training texts" if shared else line


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Estimates, writes and evaluates a model."""
    args = parse(argv)
    split = splitter(args.units, args.tokenizer)
    texts = training_texts(args)
    held_out = held_out_texts(args) if args.eval else []
    estimated = estimate(map(split, texts), args.order)
    ngram = estimated.ngram
    if ngram.order < args.order:
        print(f"no text has {args.order} {args.units}: the order is {ngram.order}", file=sys.stderr)
    # The counts of characters alone never determine discounts, which hardly change such a model.
    if orders := ", ".join(str(n) for n in estimated.fallback if n > 1):
        print(f"too few counts to estimate discounts of order {orders}: 0.5, 1 and 1.5 are used", file=sys.stderr)
    ngram.write(args.out)
    sizes = Counter(map(len, ngram.scores))
    grams = ", ".join(f"{sizes[n]:,}" for n in range(1, ngram.order + 1))
    print(f"{printable(args.out)}: {ngram.order}-gram of {args.units}; number of n-grams of each order: {grams}")
    if held_out:
        print(evaluation(ngram, split, args, texts, held_out))
    return 0
