"""Writes a checkpoint as a folder to share: `streamnest save-pretrained CKPT FOLDER`.

The folder holds model.safetensors, config.json and README.md, a model card with the certificate that streamnest verify
would give (docs/CHECKPOINTS.md).

Exit status 0: every check passed; 1: written, but a check failed, as the card states; 2: the checkpoint cannot be
read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest save-pretrained", __doc__)
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of any task")
    made.add_argument("folder", metavar="FOLDER", help="folder to write; created if it does not exist")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
