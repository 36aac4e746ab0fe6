"""Pretrains a streaming speech encoder, or trains a task on one: `python train.py task=ctc ...`; see `--help`.

The steps of a run are in `src/streamnest/commands/train.py`; `streamnest train` is the same command.
"""

from __future__ import annotations

import sys

from streamnest.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
