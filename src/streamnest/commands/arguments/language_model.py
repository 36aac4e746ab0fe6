"""Makes an n-gram language model for recognition: `streamnest language-model OUT.arpa --manifest TRAIN ...`.

The model is estimated by interpolated modified Kneser-Ney smoothing from the transcripts of cut manifests (--manifest)
and from text files of one sentence per line (--text), plain or compressed (.gz). Texts are normalized like transcripts
in training. The result is an ARPA file for `streamnest transcribe --beam 16 --lm OUT.arpa`, which KenLM and other tools
read as well; it is compressed if its name ends in .gz.

--eval reports the perplexity of a held-out manifest or text file (.txt or .txt.gz).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import Number, output_file


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest language-model", __doc__)
    made.add_argument("out", metavar="OUT", type=output_file, help="ARPA file to write (.arpa or .arpa.gz)")
    made.add_argument("--manifest", metavar="PATH", nargs="+", default=[], help="Lhotse cuts with texts")
    made.add_argument("--text", metavar="PATH", type=Path, nargs="+", default=[], help="files of one sentence per line")
    made.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="only cuts of these languages")
    made.add_argument(
        "--units",
        choices=["characters", "words", "pieces"],
        default="characters",
        help="units of the model; pieces are those of the sentencepiece tokenizer of --tokenizer",
    )
    made.add_argument("--tokenizer", metavar="MODEL", help="recognizer checkpoint whose pieces --units pieces uses")
    made.add_argument(
        "--order", type=Number(int, 1, 100), default=6, help="length of the longest n-gram; 3 or 4 suit words"
    )
    made.add_argument("--eval", metavar="PATH", help="held-out cuts or text file to compute the perplexity of")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line and refuses combinations that exclude each other."""
    made = parser()
    args = made.parse(argv)
    if not (args.manifest or args.text):
        made.error("give texts to estimate the model from: --manifest or --text")
    if not args.out.name.endswith((".arpa", ".arpa.gz")):
        made.error(f"OUT {args.out}: the name must end in .arpa or .arpa.gz")
    if bool(args.tokenizer) is not (args.units == "pieces"):
        made.error("--units pieces and --tokenizer MODEL need each other")
    if args.languages and not (args.manifest or args.eval):
        made.error("--languages has no effect without --manifest or --eval: text files have no languages")
    return args
