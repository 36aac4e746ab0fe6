"""Data of tasks that must know who speaks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.labels import Subset, label_of
from streamnest.data.manifest import LoadReport
from streamnest.data.sampling.sources import Corpus
from streamnest.errors import UserError
from streamnest.randomness import hash_id

# Of hashes, to draw a share.
_SPAN = 1 << 32


class SpeakerDataModule(SpeechDataModule):
    """Utterances of a single known speaker; others are dropped and counted.

    Args:
        held_out: share of the training recordings that becomes validation of known speakers, the same for every seed.
        options: of `SpeechDataModule`.
    """

    def __init__(self, held_out: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= held_out < 1:
            raise UserError(f"task.held_out={held_out}: need a share of at least 0 and below 1")
        self.held_out = held_out
        self._kept_back: list[Sequence[Any]] = []

    @property
    def training_speakers(self) -> list[str]:
        """Names of those who are trained on, sorted."""
        return sorted(self.by_speaker("train"))

    def by_speaker(self, part: str) -> dict[str, list[int]]:
        """Numbers of the utterances of each speaker in a part, "train" or "val"."""
        found: dict[str, list[int]] = defaultdict(list)
        for index, cut in enumerate(self._cuts[part]):
            found[str(label_of(cut).speaker)].append(index)
        return dict(found)

    def _choose(self, part: str, corpus: Corpus) -> Corpus:
        """As for all; then those with a speaker, without or with what is held out."""
        corpus = super()._choose(part, corpus)
        parts = [_where(cuts, [label_of(cut).speaker is not None for cut in cuts]) for cuts in corpus.parts]
        dropped = sum(map(len, corpus.parts)) - sum(map(len, parts))
        if dropped:
            self.report[part].counts["without speaker"] += dropped
        if part == "train" and self.held_out:
            held = [[_share(cut) < self.held_out for cut in cuts] for cuts in parts]
            self._kept_back = [_where(cuts, which) for cuts, which in zip(parts, held)]
            parts = [_where(cuts, [not out for out in which]) for cuts, which in zip(parts, held)]
        elif part == "val":
            parts += self._kept_back
        chosen = Corpus([cuts for cuts in parts if len(cuts) or part == "train"])
        if part == "train" and not len(chosen):
            raise UserError(f"data: no utterance of the training set names its speaker: {self.report[part]}")
        self._report(part, chosen)
        return chosen

    def _report(self, part: str, corpus: Corpus) -> None:
        speakers = {speaker for cut in corpus if (speaker := label_of(cut).speaker)}
        seconds = float(corpus.durations.sum()) if len(corpus) else 0.0
        self.report[part] = LoadReport(seconds, len(corpus), speakers, self.report[part].counts)


def _where(cuts: Sequence[Any], kept: Sequence[bool]) -> Sequence[Any]:
    return cuts if all(kept) else Subset(cuts, np.flatnonzero(kept))


def _share(cut: Any) -> float:
    """A number in [0, 1) for each recording, so that windows of one stay together."""
    recording = getattr(cut, "recording", None)
    return (hash_id(f"{recording.id if recording else cut.id}/held out") % _SPAN) / _SPAN
