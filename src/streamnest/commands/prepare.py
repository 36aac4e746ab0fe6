"""Makes the cut manifests of a corpus: `streamnest prepare CORPUS --source DIR --out OUT`.

Every file is decoded once. What can be used goes to OUT/cuts_train.jsonl.gz, cuts_dev.jsonl.gz ..., what cannot to
OUT/dropped.jsonl with its cause, and totals to OUT/report.json. Start it again after an interruption: files that were
checked are not checked again. `prepare CORPUS --layout` shows what files a corpus needs. Exit status 2: a mistake,
or nothing to use.
"""

from __future__ import annotations

from streamnest.data.recipes import command


def main() -> int:
    """Runs the command line."""
    return command.main(__doc__)
