"""Writes a pretraining checkpoint as a NeMo archive: `streamnest export-nemo CKPT OUT.nemo`.

NeMo opens it as EncDecDenoiseMaskedTokenPredModel, and its encoder gives the same output for a whole utterance. A model
that NeMo cannot compute is refused; differences outside the encoder are listed (docs/CHECKPOINTS.md). The archive is
read back and compared with the checkpoint.

Exit status 1: they differ; 2: the checkpoint cannot be exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import output_file


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest export-nemo", __doc__)
    made.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint or model folder of task=pretrain")
    made.add_argument("output", type=output_file, metavar="OUT.nemo", help="archive to write")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
