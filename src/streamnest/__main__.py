"""Runs `python -m streamnest COMMAND ...` as `streamnest COMMAND ...`."""

from __future__ import annotations

import sys

from streamnest.cli import main

if __name__ == "__main__":
    sys.exit(main())
