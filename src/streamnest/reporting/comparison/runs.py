"""Several runs: those below some folders, and the names and settings that tell them apart."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from streamnest.errors import UserError
from streamnest.reporting.comparison.run import Run
from streamnest.reporting.comparison.run_files import read_run

log = logging.getLogger(__name__)


def find_runs(places: Iterable[str | Path]) -> list[Run]:
    """Reads the runs in and below folders.

    Unreadable runs are left out with a warning, and those that never logged anything, because their command was refused
    or they have just started, with a message.

    Raises:
        UserError: for a folder that does not exist, or if no run is found.
    """
    folders: dict[Path, None] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise UserError(f"{place} is not a folder: give folders of runs, or a folder that contains some")
        found = [path.parent.parent for path in place.rglob(".hydra/config.yaml")]
        folders |= dict.fromkeys(sorted(found, key=_sort_key))
    read = [run for run in map(read_run, folders) if run]
    runs = [run for run in read if run.curves or run.summary]
    if not runs:
        raise UserError(
            f"no run with results in {', '.join(map(str, places))}: give folders that `streamnest train` wrote"
        )
    if len(read) > len(runs):
        log.info("%d runs without any logged metric are left out", len(read) - len(runs))
    return runs


def labels(runs: Sequence[Run]) -> list[str]:
    """Returns the name of each run, extended by the end of its folder's path if several runs share the name."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({_distinct(run, [r for r in runs if r.name == name])})"
        for name, run in zip(names, runs, strict=True)
    ]


def _distinct(run: Run, others: Sequence[Run]) -> str:
    """Returns the shortest end of a folder's path that no other run shares."""
    parts, all_parts = run.folder.resolve().parts, [other.folder.resolve().parts for other in others]
    for length in range(1, len(parts)):
        if sum(other[-length:] == parts[-length:] for other in all_parts) == 1:
            return "/".join(parts[-length:])
    return str(run.folder)


def settings(runs: Sequence[Run]) -> list[str]:
    """Returns the keys of overrides that differ between runs, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def _sort_key(folder: Path) -> tuple[Any, ...]:
    """Sorts the jobs of a sweep by number, not alphabetically."""
    number = re.match(r"\d+", folder.name)
    return (str(folder.parent), int(number[0]) if number else -1, folder.name)
