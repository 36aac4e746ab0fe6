"""Plan of shards: format, sizes and a digest of their cuts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lhotse.cut import Cut

from streamnest.data.shards.index import FORMATS
from streamnest.data.shards.store import Store
from streamnest.errors import UserError, cause_of

PLAN = "cuts.plan.json"


@dataclass(frozen=True)
class Plan:
    """Plan of shards, written first, so that a later run cannot continue with other cuts or settings.

    Attributes:
        format: "flac", "opus" or "wav".
        shard_size: cuts per shard.
        sampling_rate: sampling rate of the audio in Hz.
        num_cuts: total number of cuts.
        digest: digest of ids, durations and files of the cuts, in order.
    """

    format: str
    shard_size: int
    sampling_rate: int
    num_cuts: int
    digest: str

    @property
    def num_shards(self) -> int:
        """Returns the number of shards."""
        return -(-self.num_cuts // self.shard_size)


def make_plan(cuts: Sequence[Cut], audio_format: str, shard_size: int, sampling_rate: int = 16000) -> Plan:
    """Makes the plan for some cuts.

    Raises:
        UserError: for an unknown format or a size below 1.
    """
    if audio_format not in FORMATS:
        raise UserError(f"format={audio_format!r}: choose one of {', '.join(FORMATS)}")
    if shard_size < 1:
        raise UserError(f"shard_size={shard_size}: a shard needs at least one cut")
    digest = hashlib.blake2b(digest_size=16)
    for cut in cuts:
        digest.update(json.dumps([cut.id, cut.duration, _files(cut)]).encode())
    return Plan(audio_format, shard_size, sampling_rate, len(cuts), digest.hexdigest())


def load_plan(store: Store, location: str) -> Plan | None:
    """Reads the plan of shards; None if there are no shards.

    Raises:
        UserError: for an invalid plan, or a store that does not respond.
    """
    try:
        plan = Plan(**json.loads(store.load(PLAN)))
        _check(plan)
        return plan
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{location}/{PLAN}: cannot be read: {cause_of(error)}") from error


def _check(plan: Plan) -> None:
    for key, value in asdict(plan).items():
        good = isinstance(value, str) if key in ("format", "digest") else isinstance(value, int) and value >= 0
        if not good:
            raise ValueError(f"{key} is {value!r}")


def _files(cut: Cut) -> list[str]:
    """Returns file names without folders, because a corpus may be moved while it is sharded."""
    recording = getattr(cut, "recording", None)
    sources = recording.sources if recording else []
    return [Path(source.source).name for source in sources if source.type == "file"]
