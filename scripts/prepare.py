"""Makes the cut manifests of a corpus: `python scripts/prepare.py CORPUS --source DIR --out OUT`.

Every file is decoded once. What can be used goes to OUT/cuts_train.jsonl.gz, cuts_dev.jsonl.gz ..., what cannot to
OUT/dropped.jsonl with its cause, and totals to OUT/report.json. Start it again after an interruption: files that were
checked are not checked again. `prepare.py CORPUS --layout` shows what files a corpus needs. Exit status 2: a mistake,
or nothing to use.
"""

from __future__ import annotations

import streamnest.starting  # noqa: F401

# isort: split

import sys

if __name__ == "__main__":
    # Here, since the processes that decode import this file as well and need none of it.
    from streamnest.data.recipes.command import main

    sys.exit(main(__doc__))
