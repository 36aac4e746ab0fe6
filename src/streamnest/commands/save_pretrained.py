"""Writes a model folder with its certificate: `streamnest save-pretrained`."""

from __future__ import annotations

from collections.abc import Sequence

from streamnest.checkpoint.hub import save_pretrained
from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS
from streamnest.commands.arguments.save_pretrained import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the folder, and returns 1 if a check of the certificate failed."""
    args = parse(argv)
    certificates = save_pretrained(load_model(args.checkpoint), args.folder)
    for context, certificate in certificates.items():
        print(f"{f'{printable(context)}: ' if context else ''}{certificate.verdict}")
    print(f"wrote {WEIGHTS}, {CONFIG} and {CARD} to {printable(args.folder)}")
    return 0 if all(certificate.passed for certificate in certificates.values()) else 1
