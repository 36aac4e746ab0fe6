"""Quality against latency for one budget: `streamnest frontier --presets all`.

Pretrains an encoder for each preset, trains recognition (CTC) on it and from scratch, recognizes, and writes one table
and one picture. Every stage is a process whose result is kept by a hash of its overrides: killed and started again, the
command continues; after a change of an option it runs what depends on it. Without options it is a small example on the
built-in corpus. docs/FRONTIER.md says how to read what comes out.
"""

from __future__ import annotations

from streamnest.frontier import command
from streamnest.locations import data_root


def main() -> int:
    """Runs the command line."""
    return command.main(__doc__ or "", data_root())
