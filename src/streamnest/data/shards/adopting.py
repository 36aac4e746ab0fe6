"""Indexing of Lhotse Shar that another program wrote."""

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
    """Reads every shard of a folder once and writes the index; existing files are not changed.

    Args:
        folder: folder with `cuts.NNNNNN.jsonl.gz` and `recording.NNNNNN.tar`.
        sampling_rate: sampling rate of the audio in Hz.
        track: wrapper of the iterator over shard numbers, such as a progress bar.

    Raises:
        UserError: if there are no shards, if there is an index, or if audio differs from its cut in rate or length.
    """
    numbers, of_cuts = _numbers(folder, r"recording\.(\d{6})\.tar"), _numbers(folder, r"cuts\.(\d{6})\.jsonl\.gz")
    store = FolderStore(folder)
    if not numbers:
        raise UserError(f"{folder}: no recording.NNNNNN.tar in this folder")
    if alone := sorted({*numbers} ^ {*of_cuts}):
        lost = (cuts_name if alone[0] in numbers else tar_name)(alone[0])
        raise UserError(f"{folder / lost} is missing, but the other half of its shard exists: copy both")
    if store.size(PLAN) is not None:
        raise UserError(f"{folder}: already has an index")
    index = ShardIndex.join([index_shard(folder, number, sampling_rate) for number in track(numbers)])
    plan = Plan("as found", 0, sampling_rate, len(index), "")
    with store.workspace() as unfinished:
        index.save(unfinished / FILE, compressed=False)
        (unfinished / PLAN).write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")
        # The plan comes last, because it marks the folder as complete shards.
        for name in (FILE, PLAN):
            store.put(name, unfinished / name)
    store.clear(unfinished.parent.name)
    return index


def _numbers(folder: Path, pattern: str) -> list[int]:
    """Returns the sorted numbers of the shards with a matching file."""
    return sorted(int(found[1]) for path in folder.glob("*") if (found := re.fullmatch(pattern, path.name)))
