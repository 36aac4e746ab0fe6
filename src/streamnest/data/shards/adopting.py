"""An index for Lhotse Shar that something else wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamnest.data.shards.index import FILE, ShardIndex, cuts_name, index_shard, tar_name
from streamnest.data.shards.plan import PLAN, Plan
from streamnest.data.shards.store import FolderStore
from streamnest.errors import UserError

Track = Callable[[Sequence[int]], Any]


def adopt(folder: Path, sampling_rate: int = 16000, track: Track = iter) -> ShardIndex:
    """Reads every shard of a folder once and writes the index; what is there stays as it is.

    Args:
        folder: of `cuts.NNNNNN.jsonl.gz` and `recording.NNNNNN.tar`.
        sampling_rate: of the audio.
        track: an iterator over the numbers of the shards, such as a progress bar.

    Raises:
        UserError: for no shards, an index that is there, or audio that has not the rate and length of its cut.
    """
    numbers, of_cuts = _numbers(folder, r"recording\.(\d{6})\.tar"), _numbers(folder, r"cuts\.(\d{6})\.jsonl\.gz")
    store = FolderStore(folder)
    if not numbers:
        raise UserError(f"{folder}: no recording.NNNNNN.tar there")
    if alone := sorted({*numbers} ^ {*of_cuts}):
        lost = (cuts_name if alone[0] in numbers else tar_name)(alone[0])
        raise UserError(f"{folder / lost} is missing, the other half of its shard is there: was all of it copied?")
    if store.size(PLAN) is not None:
        raise UserError(f"{folder}: has its index already")
    index = ShardIndex.join([index_shard(folder, number, sampling_rate) for number in track(numbers)])
    plan = Plan("as found", 0, sampling_rate, len(index), "")
    with store.workspace() as unfinished:
        index.save(unfinished / FILE, compressed=False)
        (unfinished / PLAN).write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")
        # The plan is what makes a folder of shards: last.
        for name in (FILE, PLAN):
            store.put(name, unfinished / name)
    store.clear(unfinished.parent.name)
    return index


def _numbers(folder: Path, pattern: str) -> list[int]:
    """Numbers of the shards of which a file is there, in order."""
    return sorted(int(found[1]) for path in folder.glob("*") if (found := re.fullmatch(pattern, path.name)))
