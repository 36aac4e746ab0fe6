"""Random access to the cuts of shards."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from lhotse import SupervisionSegment
from numpy.typing import NDArray

from streamnest.data.audio import BadAudioError
from streamnest.data.config import DataConfig
from streamnest.data.manifest import LoadReport
from streamnest.data.remedies import remedy
from streamnest.data.sampling.durations import LazyDurations
from streamnest.data.shards.checking import check_index
from streamnest.data.shards.index import FILE, ShardIndex, tar_name
from streamnest.data.shards.plan import PLAN, load_plan
from streamnest.data.shards.remote import StoreError
from streamnest.data.shards.store import Store, open_store
from streamnest.data.shards.unpacking import plain_copy
from streamnest.data.shards.windows import Selection, block_ranges
from streamnest.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardedCut:
    """Cut of a shard with the part of Lhotse's interface that the loader uses: audio `(C, N)` and metadata."""

    id: str
    duration: float
    speaker: str | None
    store: Store
    shard: int
    offset: int
    size: int
    start: int
    num_samples: int
    sampling_rate: int
    text: str | None = None
    language: str | None = None

    @property
    def supervisions(self) -> list[SupervisionSegment]:
        """Returns one segment that covers the cut, if it has any metadata."""
        known = {"speaker": self.speaker, "text": self.text, "language": self.language}
        return [SupervisionSegment(self.id, self.id, 0.0, self.duration, **known)] if any(known.values()) else []

    @property
    def source_name(self) -> str:
        """Returns the archive, so that messages report a damaged one once and not for each cut."""
        return f"{self.store}/{tar_name(self.shard)}"

    def load_audio(self) -> NDArray[np.float32]:
        """Reads and decodes the audio.

        Returns:
            `(C, N)` samples.

        Raises:
            FileNotFoundError: for a missing archive.
            BadAudioError: for a truncated archive, audio of another length, or a store that does not respond; decoders
                raise their own exceptions.
        """
        try:
            data = self.store.read(tar_name(self.shard), self.offset, self.size)
        except StoreError as error:
            raise BadAudioError(error.cause, error.detail) from error
        if len(data) < self.size:
            raise BadAudioError("unreadable", "the archive is truncated")
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            file.seek(self.start)
            audio = file.read(self.num_samples, dtype="float32", always_2d=True).T
        if audio.shape[1] != self.num_samples:
            raise BadAudioError("not as long as declared", f"{audio.shape[1]} of {self.num_samples} samples")
        return audio


class ShardedCuts(Sequence[ShardedCut]):
    """Lazy sequence of cuts of shards; the index stays on disk.

    Windows of a split cut keep its speaker and language, but not its text.

    Args:
        store: store of the shards.
        selection: usable cuts of the index.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self.store, self.table, self.selection = store, selection.index, selection

    @property
    def lazy_durations(self) -> LazyDurations:
        """Returns lazy per-cut durations in seconds, read in slices."""
        return LazyDurations(len(self), self.selection.durations)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Returns the duration of each cut in seconds, `(len,)`."""
        return self.selection.durations(0, len(self))

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, number: Any) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        entry, window, start, samples, duration = self.selection.row(int(number) % len(self))
        speaker = self.table.speaker[entry]
        name = self.table.ids[entry]
        return ShardedCut(
            id=name if window < 0 else f"{name}-{window}",
            duration=duration,
            speaker=None if speaker < 0 else self.table.speakers[int(speaker)],
            store=self.store,
            shard=int(self.table.shard[entry]),
            offset=int(self.table.offset[entry]),
            size=int(self.table.size[entry]),
            start=start,
            num_samples=samples,
            sampling_rate=self.selection.rate,
            text=self._text(entry) if window < 0 and len(self.table.texts) else None,
            language=(self.table.languages[entry] or None) if len(self.table.languages) else None,
        )

    def _text(self, entry: int) -> str | None:
        """Returns the text of an entry; None if it is damaged, because checking all texts at start would be slow."""
        try:
            return self.table.texts[entry] or None
        except UnicodeDecodeError:
            log.warning("%s/%s: the text of entry %d is damaged and ignored", self.store, FILE, entry)
            return None


def load_shards(
    location: str,
    *,
    check_files: bool = True,
    min_duration: float = 0.1,
    max_duration: float = DataConfig.max_duration,
    on_long: str = DataConfig.on_long,
    sampling_rate: int = 16000,
    max_bad_share: float = DataConfig.max_bad_share,
    allow_commands: bool = False,
) -> tuple[ShardedCuts, LoadReport]:
    """Reads the index of shards; the arguments are those of `load_cuts`.

    Args:
        location: folder or URL that `streamnest shard` wrote.
        check_files: check that every archive exists.
        min_duration: shortest cut in seconds; shorter ones are dropped.
        max_duration: longest cut in seconds; longer ones are split into windows of this length, or dropped.
        on_long: "split" or "skip".
        sampling_rate: required sampling rate in Hz.
        max_bad_share: largest share of cuts in missing archives; these cuts are dropped.
        allow_commands: ignored, because shards contain their audio.

    Raises:
        UserError: for missing or unfinished shards, another sampling rate, too many missing archives, and no usable
            cuts.
    """
    store = open_store(location)
    index = _load_index(store, location, sampling_rate)
    absent = _missing_shards(store, index) if check_files else []
    selection = Selection(index, (min_duration, max_duration), on_long == "split", sampling_rate, absent)
    missing = selection.counts["missing file"]
    if missing > max_bad_share * len(index):
        raise UserError(
            f"{location}: {missing} of {len(index)} cuts are in missing archives; "
            f"restore them or raise max_bad_share={max_bad_share}"
        )
    cuts = ShardedCuts(store, selection)
    report = LoadReport(selection.seconds, len(cuts), selection.speakers, +selection.counts)
    if not len(cuts):
        raise UserError(f"{location}: no usable cuts ({report})")
    return cuts, report


def _load_index(store: Store, location: str, sampling_rate: int) -> ShardIndex:
    plan = load_plan(store, location)
    if plan is None:
        raise UserError(f"{location}: no shards (no {PLAN}){_remedy(store)}")
    if plan.sampling_rate != sampling_rate:
        raise UserError(
            f"{location}: sampling rate {plan.sampling_rate} Hz, expected {sampling_rate}: write the shards again"
        )
    try:
        plain = plain_copy(store, FILE)
        index = ShardIndex.map(plain) if plain else ShardIndex.from_bytes(store.load(FILE))
        check_index(index)
        return index
    except FileNotFoundError:
        raise UserError(f"{location}: the shards are not finished; run streamnest shard again to continue") from None
    # Damaged or malicious archives and arrays raise many exceptions.
    except Exception as error:
        raise UserError(f"{location}/{FILE}: cannot be read: {error or type(error).__name__}") from error


def _remedy(store: Store) -> str:
    """Returns the remedy for a folder without shards."""
    path = store.path("")
    found = remedy(path) if path else ""
    return found or "; write them with streamnest shard"


def _missing_shards(store: Store, index: ShardIndex) -> list[int]:
    """Returns the numbers of the shards without an archive."""
    shards = {int(shard) for first, stop in block_ranges(len(index)) for shard in np.unique(index.shard[first:stop])}
    return [shard for shard in sorted(shards) if store.size(tar_name(shard)) is None]
