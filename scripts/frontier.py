"""Quality against latency for one budget: `python scripts/frontier.py --presets all`.

Pretrains an encoder for each preset, trains recognition (CTC) on it and from scratch, recognises, and writes one table
and one picture. Every stage is a process whose result is kept by a hash of its overrides: killed and started again, the
command continues; after a change of an option it runs what depends on it. Without options it is a small example on the
built-in corpus. docs/FRONTIER.md says how to read what comes out.
"""

from __future__ import annotations

import streamnest.starting  # noqa: F401

# isort: split

import sys
from pathlib import Path

from streamnest.downstream.frontier.command import main

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.exit(main(__doc__, ROOT))
