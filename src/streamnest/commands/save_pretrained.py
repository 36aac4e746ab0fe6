"""Writes a checkpoint as a folder to share: `streamnest save-pretrained CKPT FOLDER`.

The folder holds model.safetensors, config.json and README.md, a model card with the certificate of streamnest verify,
measured now (docs/CHECKPOINTS.md). Exit status 0: certified; 1: written, but a check failed, and the card says so;
2: the checkpoint cannot be read.
"""

from __future__ import annotations

import argparse

from streamnest.checkpoint.hub import save_pretrained
from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable
from streamnest.formatting import milliseconds


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint of any task")
    parser.add_argument("folder", help="to write; made where there is none")
    args = parser.parse_args()
    certificates = save_pretrained(load_model(args.checkpoint), args.folder)
    for context, certificate in certificates.items():
        verdict = "certified" if certificate.passed else "not certified"
        ahead = milliseconds(certificate.latency.lookahead_ms)
        print(f"{f'{printable(context)}: ' if context else ''}look-ahead {ahead}, {verdict}")
    print(f"wrote {WEIGHTS}, {CONFIG} and {CARD} to {printable(args.folder)}")
    return 0 if all(certificate.passed for certificate in certificates.values()) else 1
