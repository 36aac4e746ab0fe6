"""Runs `streamnest serve` from a checkout: `python scripts/serve.py --help`."""

from __future__ import annotations

import sys

from streamnest.cli import run_script

if __name__ == "__main__":
    sys.exit(run_script(__file__))
