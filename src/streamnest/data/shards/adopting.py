"""An index for Lhotse Shar that something else wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamnest.data.shards.index import FILE, ShardIndex, index_shard
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
    numbers = sorted(
        int(m[1]) for path in folder.glob("*") if (m := re.fullmatch(r"recording\.(\d{6})\.tar", path.name))
    )
    store = FolderStore(folder)
    if not numbers:
        raise UserError(f"{folder}: no recording.NNNNNN.tar there")
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
