"""Compares how much kinds of codes tell about phones: `python benchmarks/compare_targets.py`.

Prints for each kind and number of codes the phone-normalized mutual information (PNMI of HuBERT, Hsu et al. 2021,
section IV-C) and the perplexity of the codes. No encoder is trained. Fitted codes are fitted to the same utterances,
without their phones. PNMI grows with the number of codes, so compare kinds at equal numbers. The default corpus is the
built-in sample, in which one reader has phone labels.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data/sample16k"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/compare_targets.py", __doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="config overrides such as quantizer.normalize=global"
    )
    parser.add_argument("--manifest", default=str(SAMPLE / "manifest.jsonl"), help="JSON lines with id and path")
    parser.add_argument("--phones", default=str(SAMPLE / "phones.jsonl"), help="JSON lines with id and phones")
    parser.add_argument("--most", type=int, default=200, help="largest number of utterances")
    parser.add_argument("--classes", nargs="+", type=int, default=[100, 256, 1024], help="numbers of codes")
    parser.add_argument("--dims", nargs="+", type=int, default=[8, 16], help="code dimensions")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import itertools
import math
import sys

from rich.table import Table

from streamnest.checkpoint.resolve_model import resolve_model
from streamnest.code_usage import entropy
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import terminal
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.codes import codes_of, read_labeled_frames
from streamnest.probing.encoded import choose
from streamnest.probing.linear_probe import shared_information
from streamnest.probing.phone_labels import read_utterances
from streamnest.quantizer import CODES, RandomProjectionQuantizer, count_codes


@without_trace
def main() -> int:
    """Prints the table."""
    args = parse()
    table = Table(title="Information of codes about phones")
    for name in ("codes", "dimension", "number", "PNMI", "perplexity"):
        table.add_column(name, justify="right")
    model = resolve_model(["encoder=lookahead40", *args.overrides], ROOT / "configs")
    if not isinstance(model, Pretraining):
        raise UserError("the overrides must select task=pretrain: other tasks have no quantizer")
    aligned = [u for u in read_utterances(args.manifest, args.phones) if u.phones]
    speech = read_labeled_frames(model, choose(aligned, args.most, seed=0))
    inputs, phones = speech.inputs[speech.phones >= 0], speech.phones[speech.phones >= 0]
    for kind, width, number in itertools.product(CODES, args.dims, args.classes):
        quantizer = RandomProjectionQuantizer(model.frontend.num_mels, model.quantizer.stack, number, 1, width, 0, kind)
        quantizer.fit(inputs)
        codes = codes_of(quantizer, inputs)
        pnmi = shared_information(codes, phones)
        perplexity = math.exp(entropy(count_codes(codes[:, None], number)))
        table.add_row(kind, str(width), str(number), f"{pnmi:.3f}", f"{perplexity:.0f}")
    console = terminal(100)
    console.print(table, f"{len(phones)} frames of {len(phones.unique())} phones")
    return 0


if __name__ == "__main__":
    sys.exit(main())
