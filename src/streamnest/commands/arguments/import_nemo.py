"""Converts a NeMo archive to a checkpoint: `streamnest import-nemo MODEL.nemo [OUT.ckpt]`.

NEST archives keep quantizer and heads; FastConformer recognizers, bidirectional or cache-aware, keep the encoder only
(docs/CHECKPOINTS.md). Nothing in the archive is executed. Prints what was kept, translated and left out, and commands
that continue from the checkpoint.

Exit status 2: the archive cannot be read, or holds something that is not supported here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import output_file


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest import-nemo", __doc__)
    made.add_argument("archive", type=Path, metavar="MODEL.nemo", help="archive to read")
    made.add_argument(
        "output", type=output_file, nargs="?", metavar="OUT.ckpt", help="checkpoint to write (default: MODEL.ckpt here)"
    )
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
