"""Measures quality against latency for one training budget: `streamnest frontier --presets all`.

Pretrains an encoder for each preset, trains CTC recognition on it and from scratch, transcribes, and writes one table
and one plot. Each stage is a process whose result is cached under a hash of its overrides: the same command continues
after an interruption, and after a change of an option it runs only the stages that depend on it. Without options it
runs a small example on the built-in corpus. docs/FRONTIER.md explains the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from streamnest.console.arguments import ArgumentParser
from streamnest.frontier import arguments


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    return arguments.parser(__doc__)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    return parser().parse(argv)
