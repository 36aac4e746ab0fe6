"""Writes a checkpoint as a folder to share, and uploads it: `streamnest save-pretrained CKPT FOLDER [--push ORG/NAME]`.

The folder holds model.safetensors, config.json and README.md, a model card with the last validation and the
certificate that streamnest verify would give (docs/CHECKPOINTS.md). --push needs the extra hub, and a token that
permits writing.

Exit status 0: every check passed; 1: written but not uploaded, because a check failed, as the card states; 2: the
checkpoint cannot be read, or the upload failed.
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
    made.add_argument("--push", metavar="ORG/NAME", help="upload the folder to huggingface.co, or to HF_ENDPOINT")
    made.add_argument("--public", action="store_true", help="a new repository is visible to everyone, not private")
    made.add_argument("--license", metavar="ID", help="license of the weights, such as cc-by-4.0; --push requires it")
    made.add_argument("--language", nargs="+", default=[], metavar="CODE", help="languages for the card, such as en de")
    made.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="training data for the card")
    made.add_argument(
        "--result", action="append", default=[], metavar="NAME=VALUE", help="a further result for the card; repeatable"
    )
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
