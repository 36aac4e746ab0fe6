"""Data module of tasks that need the speaker of each utterance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import DataConfig
from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.labels import Subset, label_of
from streamnest.data.reading import report_of
from streamnest.data.sampling.sources import Corpus
from streamnest.errors import UserError
from streamnest.randomness import hash_id

# Number of hash values that are mapped to [0, 1).
_HASH_RANGE = 1 << 32


class SpeakerDataModule(SpeechDataModule):
    """Utterances with exactly one named speaker; other utterances are dropped and counted.

    Args:
        config: settings of the data.
        augment: augmentation, see `SpeechDataModule`.
        held_out: share of the training recordings that is moved to the validation set, so that it has speakers of the
            training set. The choice is the same for every seed.

    Raises:
        UserError: in the cases of `SpeechDataModule`, for a share outside [0, 1), and if no utterance names a speaker.
    """

    def __init__(self, config: DataConfig, augment: Augmentation | None = None, held_out: float = 0.0) -> None:
        super().__init__(config, augment)
        if not 0 <= held_out < 1:
            raise UserError(f"task.held_out={held_out}: need a share of at least 0 and below 1")
        self.held_out = held_out
        self._held_out_cuts: list[Sequence[Any]] = []

    @property
    def training_speakers(self) -> list[str]:
        """Sorted names of the speakers in the training set, without those that are only held out."""
        return sorted(self.by_speaker("train"))

    def by_speaker(self, part: str) -> dict[str, list[int]]:
        """Returns the indices of the utterances of each speaker in a part, "train" or "val"."""
        indices: dict[str, list[int]] = defaultdict(list)
        for index, cut in enumerate(self._cuts[part]):
            indices[str(label_of(cut).speaker)].append(index)
        return dict(indices)

    def _select(self, part: str, corpus: Corpus) -> Corpus:
        """Keeps utterances with a speaker, and moves the held-out ones from training to validation."""
        corpus = super()._select(part, corpus)
        parts = [_where(cuts, [label_of(cut).speaker is not None for cut in cuts]) for cuts in corpus.parts]
        dropped = sum(map(len, corpus.parts)) - sum(map(len, parts))
        if dropped:
            self.report[part].counts["without speaker"] += dropped
        if part == "train" and self.held_out:
            held = [[_hash_share(cut) < self.held_out for cut in cuts] for cuts in parts]
            self._held_out_cuts = [_where(cuts, which) for cuts, which in zip(parts, held)]
            parts = [_where(cuts, [not out for out in which]) for cuts, which in zip(parts, held)]
        elif part == "val":
            parts += self._held_out_cuts
        selected = Corpus([cuts for cuts in parts if len(cuts) or part == "train"])
        if part == "train" and not len(selected):
            raise UserError(f"data: no utterance of the training set names its speaker; found {self.report[part]}")
        self.report[part] = report_of(selected, self.report[part].counts)
        return selected


def _where(cuts: Sequence[Any], kept: Sequence[bool]) -> Sequence[Any]:
    return cuts if all(kept) else Subset(cuts, np.flatnonzero(kept))


def _hash_share(cut: Any) -> float:
    """Returns a number in [0, 1) for each recording, so that windows of one recording stay together."""
    recording = getattr(cut, "recording", None)
    return (hash_id(f"{recording.id if recording else cut.id}/held out") % _HASH_RANGE) / _HASH_RANGE
