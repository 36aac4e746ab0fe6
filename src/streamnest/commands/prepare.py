"""Writes the cut manifests of a corpus: `streamnest prepare`."""

from __future__ import annotations

from collections.abc import Sequence

from streamnest.commands.arguments import prepare as arguments
from streamnest.data.recipes import command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    return command.main(arguments.__doc__, argv)
