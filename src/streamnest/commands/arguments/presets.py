"""Prints each encoder preset with its computed look-ahead and latency: `streamnest presets [OVERRIDE ...]`.

Latency is algorithmic: from a sample's arrival to the first output frame that covers it, excluding compute time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest presets", __doc__)
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as encoder.subsampling_factor=8")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
