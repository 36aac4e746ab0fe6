"""Measures quality against latency for one training budget: `streamnest frontier`."""

from __future__ import annotations

from streamnest.commands.arguments import frontier as arguments
from streamnest.frontier import command
from streamnest.locations import data_root


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return command.main(arguments.__doc__ or "", data_root(), argv)
