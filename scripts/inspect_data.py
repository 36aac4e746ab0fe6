"""Runs `streamnest inspect` from a checkout: `python scripts/inspect_data.py --help`."""

from __future__ import annotations

import sys

from streamnest.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
