"""Labels of utterances, and selection of utterances by their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lhotse.cut import Cut, MultiCut
from numpy.typing import NDArray

from streamnest.data.sampling.sources import durations
from streamnest.randomness import hash_id


@dataclass(frozen=True)
class Label:
    """Label of an utterance; None for what the manifest does not contain.

    Attributes:
        text: transcript.
        speaker: name of the speaker, if there is exactly one.
        language: language as the manifest spells it.
        speaker_in_train: custom field of that name, see `SpeechDataModule.is_seen`.
    """

    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    speaker_in_train: bool | None = None


def label_of(cut: Any) -> Label:
    """Returns the label of a cut, from its supervisions in temporal order and its custom fields."""
    parts = sorted(cut.supervisions, key=lambda s: s.start)
    texts = [part.text for part in parts if part.text and part.text.strip()]
    known = (getattr(cut, "custom", None) or {}).get("speaker_in_train")
    return Label(
        text=" ".join(texts) or None,
        speaker=_single([part.speaker for part in parts]),
        language=_single([part.language for part in parts]),
        speaker_in_train=None if known is None else bool(known),
    )


def _single(values: list[str | None]) -> str | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def keep_channel(cuts: Iterable[Cut], channel: int) -> None:
    """Removes the supervisions of other channels from multi-channel cuts of which one channel will be read.

    Nothing is removed if all supervisions are in channel 0, which is also written for "unknown".
    """
    for cut in cuts:
        if isinstance(cut, MultiCut) and any(part.channel != 0 for part in cut.supervisions):
            cut.supervisions = [part for part in cut.supervisions if channel in np.atleast_1d(part.channel)]


class Subset(Sequence[Any]):
    """A subset of a sequence of cuts, in its order."""

    def __init__(self, cuts: Sequence[Any], indices: NDArray[np.int64]) -> None:
        self.cuts, self.indices = cuts, indices

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each cut, `(len,)`."""
        return durations(self.cuts)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.cuts[int(self.indices[index])]


def suitable(
    cuts: Sequence[Any], languages: Sequence[str] | None, transcribed: bool, counts: Counter[str]
) -> Sequence[Any]:
    """Returns the cuts of some languages (None for all) and, if `transcribed`, with text; counts the other ones."""
    if languages is None and not transcribed:
        return cuts
    kept = []
    for index, label in enumerate(map(label_of, cuts)):
        if languages is not None and label.language not in languages:
            counts["other language"] += 1
        elif transcribed and label.text is None:
            counts["without text"] += 1
        else:
            kept.append(index)
    return Subset(cuts, np.array(kept, np.int64))


def within_hours(parts: Sequence[Sequence[Any]], hours: float, seed: int) -> list[Sequence[Any]]:
    """Returns a random subset of at most `hours` over all parts; larger subsets of a seed contain smaller ones."""
    order = sorted(
        (hash_id(f"{seed}/{cut.id}/subset"), part, index)
        for part, cuts in enumerate(parts)
        for index, cut in enumerate(cuts)
    )
    lengths = [durations(cuts) for cuts in parts]
    total = np.cumsum([lengths[part][index] for _, part, index in order])
    # At least one utterance, so that the training set is not empty.
    count = max(1, int(np.searchsorted(total, 3600 * hours, side="right")))
    chosen = [(part, index) for _, part, index in order[:count]]
    return [
        Subset(cuts, np.array(sorted(index for at, index in chosen if at == part), np.int64))
        for part, cuts in enumerate(parts)
    ]
