"""Batches of conversations: simulated from the utterances of a corpus, and recorded ones for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamnest.data.audio import SAMPLING_RATE, Samples
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.batch import Batch
from streamnest.data.config import DataConfig
from streamnest.data.conversations.rttm import load_excerpts
from streamnest.data.conversations.simulation import (
    ConversationLabel,
    ConversationSimulator,
    SpeakerUtterance,
    Turn,
    clipped,
)
from streamnest.data.conversations.speakers import SpeakerDataModule
from streamnest.data.dataset import SpeechDataset
from streamnest.data.labels import label_of
from streamnest.data.sampling.durations import Durations
from streamnest.data.sampling.samplers import BatchIndex, BucketBatchSampler
from streamnest.data.sampling.sources import Corpus, durations
from streamnest.errors import UserError
from streamnest.randomness import hash_id

# Seed of the validation conversations, which do not depend on the seed of the run.
_VALIDATION_SEED = 0


class ConversationDataset(SpeechDataset):
    """Simulated conversations, each of which starts with a given utterance, followed by recorded ones.

    All random choices for a conversation depend only on (seed, step, id of its first utterance), so that neither the
    workers nor the other conversations of a batch influence it.

    Args:
        cuts: utterances of single speakers.
        speakers: indices of the utterances of each speaker.
        simulator: simulator of conversations.
        seed: seed of all random choices.
        anchors: indices of the utterances that conversations start with; None for all.
        excerpts: recorded conversations.
        augmentation: rooms, one for each speaker, and noise; None for none.
        options: other arguments of `SpeechDataset`.
    """

    def __init__(
        self,
        cuts: Sequence[Any],
        speakers: Mapping[str, Sequence[int]],
        simulator: ConversationSimulator,
        seed: int,
        anchors: Sequence[int] | None = None,
        excerpts: Sequence[Any] = (),
        augmentation: Augmentation | None = None,
        **options: Any,
    ) -> None:
        super().__init__(Corpus([cuts, excerpts]), **options)
        self.speakers, self.simulator, self.seed, self.augmentation = speakers, simulator, seed, augmentation
        self.anchors = range(len(cuts)) if anchors is None else anchors
        self.excerpts = excerpts
        self._recorded = len(cuts)
        self._due = 0

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each conversation, `(len,)`."""
        return np.concatenate([np.full(len(self.anchors), self.simulator.seconds), durations(self.excerpts)])

    @property
    def lazy_durations(self) -> Durations:
        """The same as `durations`."""
        return self.durations

    def __len__(self) -> int:
        return len(self.anchors) + len(self.excerpts)

    def __getitem__(self, batch_index: BatchIndex) -> Batch:
        skipped: Counter[str] = Counter()
        self._due = 0
        made = [self._make(index, batch_index.step, skipped) for index in batch_index.indices]
        kept = [item for item in made if item is not None]
        if not kept:
            return replace(super().__getitem__(BatchIndex(batch_index.step, [])), skipped=dict(skipped), due=self._due)
        cuts, rows, labels = (list(part) for part in zip(*kept))
        return replace(self._collate(cuts, rows, batch_index.step, skipped), labels=labels, due=self._due)

    def _load(self, index: int, skipped: Counter[str]) -> Samples | None:
        """Counts utterances instead of conversations: any of the utterances of a conversation may be unreadable."""
        self._due += 1
        return super()._load(index, skipped)

    def _make(self, index: int, step: int, skipped: Counter[str]) -> tuple[Any, Samples, ConversationLabel] | None:
        """Returns the cut whose id is the key, the audio, and the turns of a conversation; None if it has none."""
        simulated = index < len(self.anchors)
        cut_index = self.anchors[index] if simulated else self._recorded + index - len(self.anchors)
        cut = self.cuts[cut_index]
        if simulated:
            mix, turns = self._simulate(cut_index, step, skipped)
            return (cut, mix, ConversationLabel(turns=turns)) if turns else None
        audio = self._load(cut_index, skipped)
        turns = clipped((Turn(str(s.speaker), s.start, s.end) for s in cut.supervisions), cut.duration)
        return None if audio is None else (cut, audio, ConversationLabel(turns=turns, real=True))

    def _simulate(self, anchor: int, step: int, skipped: Counter[str]) -> tuple[Samples, tuple[Turn, ...]]:
        cut = self.cuts[anchor]
        first, started = str(label_of(cut).speaker), False

        def next_utterance(rng: np.random.Generator, speaker: str) -> SpeakerUtterance | None:
            nonlocal started
            choice = self.speakers[speaker]
            index = choice[int(rng.integers(len(choice)))] if started else anchor
            started = True
            return self._utterance(index, f"{cut.id}/{speaker}", step, skipped)

        others = [speaker for speaker in self.speakers if speaker != first]
        tracks, turns = self.simulator(self.seed, step, cut.id, first, others, next_utterance)
        return self._mix(cut.id, tracks, step), turns

    def _utterance(self, index: int, voice: str, step: int, skipped: Counter[str]) -> SpeakerUtterance | None:
        """Returns a cut without silence at its ends, at the speed of this speaker in this conversation."""
        audio = self._load(index, skipped)
        if audio is None:
            return None
        turns = clipped((Turn("", s.start, s.end) for s in self.cuts[index].supervisions), len(audio) / SAMPLING_RATE)
        if not turns:
            return None
        begin, end = turns[0].start, max(turn.end for turn in turns)
        audio = audio[round(begin * SAMPLING_RATE) : round(end * SAMPLING_RATE)]
        stretch = 1.0
        if self.speed is not None:
            before, audio = len(audio), self.speed(audio, voice, step)
            stretch = len(audio) / before
        return SpeakerUtterance(
            audio, [(stretch * (turn.start - begin), stretch * (turn.end - begin)) for turn in turns]
        )

    def _mix(self, name: str, tracks: Mapping[str, Samples], step: int) -> Samples:
        """Reverberates each track in a room of its own, sums them, and adds noise."""
        rows = torch.from_numpy(np.stack(list(tracks.values())))
        if self.augmentation is None:
            return rows.sum(0).numpy()
        lengths, voices = torch.full((len(rows),), rows.shape[1]), [f"{name}/{speaker}" for speaker in tracks]
        mix = self.augmentation.reverb(rows, lengths, voices, step).sum(0, keepdim=True)
        noisy: Samples = self.augmentation.mixing(mix, lengths[:1], [name], step)[0].numpy()
        return noisy


class ConversationDataModule(SpeakerDataModule):
    """Conversations that are simulated from the training set during training, and a fixed set for validation.

    Rooms and noise are those of `augment`, in validation only with `data.augment_val`. No other voices are mixed in,
    because all speech is labeled. Each speaker of a conversation has a constant speed.

    Args:
        config: settings of the data.
        augment: augmentation, see `SpeechDataModule`.
        simulator: simulator of conversations.
        val_conversations: number of validation conversations; each starts with another utterance.
        test_manifest: recorded conversations with turns, see `load_excerpts`; None for none.

    Raises:
        UserError: in the cases of `SpeakerDataModule` and `load_excerpts`, and without validation conversations.
    """

    def __init__(
        self,
        config: DataConfig,
        augment: Augmentation | None,
        simulator: ConversationSimulator,
        val_conversations: int,
        test_manifest: str | None = None,
    ) -> None:
        super().__init__(config, augment)
        if val_conversations < 1:
            raise UserError(f"task.val_conversations={val_conversations}: need at least 1")
        self.simulator, self.val_conversations = simulator, val_conversations
        self.excerpts = load_excerpts(test_manifest, allow_commands=config.allow_commands) if test_manifest else []
        self._speakers: dict[str, dict[str, list[int]]] = {}

    def _dataset(self, part: str, augment: Augmentation | None = None, cache_mb: float = 0.0) -> ConversationDataset:
        cuts = self._cuts[part]
        if part not in self._speakers:
            self._speakers[part] = self.by_speaker(part)
        validation = part == "val"
        order = sorted(range(len(cuts)), key=lambda i: hash_id(f"{cuts[i].id}/conversation")) if validation else None
        return ConversationDataset(
            cuts,
            self._speakers[part],
            self.simulator,
            _VALIDATION_SEED if validation else self.config.seed,
            order[: self.val_conversations] if order else None,
            self.excerpts if validation else (),
            augment,
            channel=self.config.channel,
            cache_mb=cache_mb,
            warned=self._warned,
        )

    @property
    def _mean_stretch(self) -> float:
        """Speed does not change the duration of a conversation."""
        return 1.0

    def _sampler(self, dataset: SpeechDataset, *args: Any, **options: Any) -> BucketBatchSampler:
        """Makes the sampler without a margin for speed, which does not change the duration of a conversation."""
        speed, dataset.speed = dataset.speed, None
        sampler = super()._sampler(dataset, *args, **options)
        dataset.speed = speed
        return sampler
