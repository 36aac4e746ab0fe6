"""Writes a model folder with its certificate, and uploads it: `streamnest save-pretrained`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.checkpoint.hub import push_to_hub, save_pretrained
from streamnest.checkpoint.hub_client import HubName, require_token
from streamnest.checkpoint.loading import load_model, read_checked
from streamnest.checkpoint.model_card import CardFacts, validation_results
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS
from streamnest.commands.arguments.save_pretrained import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable
from streamnest.errors import UserError


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the folder and uploads it, and returns 1 if a check of the certificate failed."""
    args = parse(argv)
    if args.push:  # refused before anything is measured and written
        if not args.license:
            raise UserError("--push needs the license of the weights: give --license, such as --license cc-by-4.0")
        require_token(HubName.parsed(args.push))
    facts = _facts(args)
    certificates = save_pretrained(load_model(args.checkpoint), args.folder, facts, args.push)
    for context, certificate in certificates.items():
        print(f"{f'{printable(context)}: ' if context else ''}{certificate.verdict}")
    print(f"wrote {WEIGHTS}, {CONFIG} and {CARD} to {printable(args.folder)}")
    passed = all(certificate.passed for certificate in certificates.values())
    if args.push:
        print(f"uploaded: {push_to_hub(args.folder, args.push, args.public)}" if passed else "not uploaded")
    return 0 if passed else 1


def _facts(args: argparse.Namespace) -> CardFacts:
    """Returns what the card states: the last validation of the checkpoint, and the options."""
    results = validation_results(read_checked(args.checkpoint))
    for text in args.result:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise UserError(f"--result {text!r} must be NAME=VALUE, such as --result 'WER, test-clean=4.1 %'")
        results[name] = value
    return CardFacts(args.license, args.language, args.dataset, results)
