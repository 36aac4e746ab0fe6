"""Shards as a sequence of cuts that are read at random."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import soundfile
from lhotse import SupervisionSegment
from numpy.typing import NDArray

from streamnest.data.audio import BadAudioError
from streamnest.data.manifest import LoadReport
from streamnest.data.remedies import remedy
from streamnest.data.sampling.durations import LazyLengths
from streamnest.data.shards.checking import check_index
from streamnest.data.shards.index import FILE, ShardIndex, tar_name
from streamnest.data.shards.plan import PLAN, load_plan
from streamnest.data.shards.remote import StoreError
from streamnest.data.shards.store import Store, open_store
from streamnest.data.shards.unpacking import plain_copy
from streamnest.data.shards.windows import Selection, stretches
from streamnest.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardedCut:
    """What the loader needs of a Lhotse cut: audio `(C, N)`, id, duration, speaker, text and language."""

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
        """One segment of all the cut, where anything is known about it."""
        known = {"speaker": self.speaker, "text": self.text, "language": self.language}
        return [SupervisionSegment(self.id, self.id, 0.0, self.duration, **known)] if any(known.values()) else []

    @property
    def source_name(self) -> str:
        """The archive, for messages: a damaged one is reported once and not for each cut."""
        return f"{self.store}/{tar_name(self.shard)}"

    def load_audio(self) -> NDArray[np.float32]:
        """Reads and decodes.

        Raises:
            FileNotFoundError: for a missing archive.
            BadAudioError: for an archive that ends early, audio of another length, or a store that does not answer;
                decoders raise their own.
        """
        try:
            data = self.store.read(tar_name(self.shard), self.offset, self.size)
        except StoreError as error:
            raise BadAudioError(error.cause, error.detail) from error
        if len(data) < self.size:
            raise BadAudioError("unreadable", "the archive ends before the audio does")
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            file.seek(self.start)
            audio = file.read(self.num_samples, dtype="float32", always_2d=True).T
        if audio.shape[1] != self.num_samples:
            raise BadAudioError("not as long as declared", f"{audio.shape[1]} of {self.num_samples} samples")
        return audio


class ShardedCuts(Sequence[ShardedCut]):
    """Cuts of shards; the index stays on disk, and a cut is made when it is asked for.

    Windows of a split cut keep its speaker, whoever speaks in them, and its language, but not its text.

    Args:
        store: where the shards lie.
        selection: the usable cuts of the index.
    """

    def __init__(self, store: Store, selection: Selection) -> None:
        self.store, self.table, self.selection = store, selection.index, selection

    @property
    def lengths(self) -> LazyLengths:
        """Seconds of each cut, to be read a stretch at a time."""
        return LazyLengths(len(self), self.selection.durations)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each cut, `(len,)`, all at once."""
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
        """The text of an entry; none if it is damaged, as reading all texts at the start would take long."""
        try:
            return self.table.texts[entry] or None
        except UnicodeDecodeError:
            log.warning("%s/%s: the text of entry %d is damaged and left out", self.store, FILE, entry)
            return None


def load_shards(
    location: str,
    *,
    check_files: bool = True,
    min_duration: float = 0.1,
    max_duration: float = 16.0,
    on_long: Literal["split", "skip"] = "split",
    sampling_rate: int = 16000,
    max_bad_share: float = 0.1,
    allow_commands: bool = False,
) -> tuple[ShardedCuts, LoadReport]:
    """Reads the index of shards; the arguments are those of `load_cuts`.

    Args:
        location: folder or URL that `streamnest shard` wrote.
        check_files: look for every archive.
        min_duration: shorter cuts are dropped.
        max_duration: longer cuts are split into windows of this length, or dropped.
        on_long: "split" or "skip".
        sampling_rate: that the shards must have.
        max_bad_share: share of cuts that may lie in missing archives; they are dropped.
        allow_commands: makes no difference, as shards hold their audio.

    Raises:
        UserError: for no shards there, unfinished ones, another rate, too many missing ones, nothing usable.
    """
    store = open_store(location)
    index = _load_index(store, location, sampling_rate)
    lost = _lost(store, index) if check_files else []
    selection = Selection(index, (min_duration, max_duration), on_long == "split", sampling_rate, lost)
    missing = selection.counts["missing file"]
    if missing > max_bad_share * len(index):
        raise UserError(
            f"{location}: {missing} of {len(index)} cuts lie in archives that are missing; "
            f"restore them or raise max_bad_share={max_bad_share}"
        )
    cuts = ShardedCuts(store, selection)
    report = LoadReport(selection.seconds, len(cuts), selection.speakers, +selection.counts)
    if not len(cuts):
        raise UserError(f"{location}: no usable cut ({report})")
    return cuts, report


def _load_index(store: Store, location: str, sampling_rate: int) -> ShardIndex:
    plan = load_plan(store, location)
    if plan is None:
        raise UserError(f"{location}: no shards there (no {PLAN}){_instead(store)}")
    if plan.sampling_rate != sampling_rate:
        raise UserError(f"{location}: shards of {plan.sampling_rate} Hz, need {sampling_rate}; write them again")
    try:
        plain = plain_copy(store, FILE)
        index = ShardIndex.map(plain) if plain else ShardIndex.from_bytes(store.load(FILE))
        check_index(index)
        return index
    except FileNotFoundError:
        raise UserError(f"{location}: the shards are not finished; run streamnest shard again to go on") from None
    # Archives and arrays that are damaged, or made to harm, raise whatever they like.
    except Exception as error:
        raise UserError(f"{location}/{FILE}: cannot be read: {error or type(error).__name__}") from error


def _instead(store: Store) -> str:
    """Names the remedy for a folder without shards."""
    path = store.path("")
    found = remedy(path) if path else ""
    return found or "; write them with streamnest shard"


def _lost(store: Store, index: ShardIndex) -> list[int]:
    """Shards without an archive."""
    shards = {int(shard) for first, stop in stretches(len(index)) for shard in np.unique(index.shard[first:stop])}
    return [shard for shard in sorted(shards) if store.size(tar_name(shard)) is None]
