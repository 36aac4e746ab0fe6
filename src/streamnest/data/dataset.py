"""Dataset that turns batches of indices into batches of audio."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from streamnest.data.audio import SAMPLING_RATE, BadAudioError, Channel, Samples, load_mono, source_name
from streamnest.data.augment.speed import SpeedPerturbation
from streamnest.data.batch import Batch
from streamnest.data.labels import Label, label_of
from streamnest.data.sampling.durations import Durations
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.data.sampling.sources import durations, lazy_durations
from streamnest.randomness import hash_id

log = logging.getLogger(__name__)

# Shorter than an encoder frame, so that nothing is masked; padded, so that no layer gets an empty tensor.
_SILENT_SAMPLES, _PADDED_SAMPLES = 160, 8000


class SpeechDataset(Dataset[Batch]):
    """Loads whole batches: use it with `DataLoader(dataset, sampler=..., batch_size=None)`.

    Bad audio is left out, counted in `Batch.skipped` by cause, and logged once per file and process. If no audio is
    left, the batch is one row of silence that is too short to train on, because in distributed training every rank
    needs a batch.

    Args:
        cuts: cuts at 16 kHz; files with another rate are resampled as they are read.
        augment: makes the noisy audio, called like `NoiseAndSpeakerMixing`; None for clean audio.
        channel: "mix" averages the channels of a file; a number, from 0, selects one of them.
        cache_mb: decoded audio that each process keeps, in MB. The first utterances are kept: over endless epochs all
            utterances are used equally often, and evicting the oldest would evict the one that is needed next.
        warned: files that have been logged; datasets that share it log a file once.
        speed: speed perturbation of clean and noisy audio, which `durations` do not include; None for none.
        hash_audio: compute `Batch.hashes`, about 1 ms for 10 s of audio.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        augment: Callable[..., Tensor] | None = None,
        channel: Channel = "mix",
        cache_mb: float = 0,
        warned: set[str] | None = None,
        speed: SpeedPerturbation | None = None,
        hash_audio: bool = False,
    ) -> None:
        self.cuts, self.augment, self.channel, self.speed = cuts, augment, channel, speed
        self.hash_audio = hash_audio
        self._warned = set() if warned is None else warned
        self._cache: dict[Hashable, Samples] = {}
        self._free_bytes = int(cache_mb * 2**20)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds of each cut, `(len,)`."""
        return durations(self.cuts)

    @property
    def lazy_durations(self) -> Durations:
        """Durations that can be read slice by slice."""
        return lazy_durations(self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, batch_index: BatchIndex) -> Batch:
        skipped: Counter[str] = Counter()
        loaded = [(self.cuts[i], self._load(i, skipped)) for i in batch_index.indices]
        cuts = [cut for cut, audio in loaded if audio is not None]
        rows = [audio for _, audio in loaded if audio is not None]
        if not rows:
            return _silence(batch_index.step, skipped)
        if self.speed is not None:
            rows = [self.speed(row, cut.id, batch_index.step) for row, cut in zip(rows, cuts)]
        return self._collate(cuts, rows, batch_index.step, skipped)

    def _load(self, index: int, skipped: Counter[str]) -> Samples | None:
        return self._audio(index, self.cuts[index], skipped)

    def _audio(self, key: Hashable, cut: Any, skipped: Counter[str]) -> Samples | None:
        """Returns the audio of a cut, from the cache if it is there; None, counted and logged, if it is bad."""
        if key in self._cache:
            return self._cache[key]
        try:
            audio = self._decode(cut)
        except BadAudioError as error:
            skipped[error.cause] += 1
            name = source_name(cut)
            if name not in self._warned:
                self._warned.add(name)
                log.warning("%s is skipped: %s", name, error)
            return None
        if audio.nbytes <= self._free_bytes:
            self._free_bytes -= audio.nbytes
            self._cache[key] = audio
        return audio

    def _decode(self, cut: Any) -> Samples:
        return load_mono(cut, self.channel)

    def _collate(self, cuts: list[Cut], rows: list[Samples], step: int, skipped: Counter[str]) -> Batch:
        clean = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        ids, labels = [cut.id for cut in cuts], [label_of(cut) for cut in cuts]
        noisy = clean
        if self.augment is not None:
            noisy = self.augment(clean, lengths, ids, step, [label.speaker for label in labels])
        return Batch(
            clean=clean,
            noisy=noisy,
            lengths=lengths,
            keys=torch.tensor([hash_id(cut_id) for cut_id in ids]),
            step=step,
            ids=ids,
            seconds=sum(map(len, rows)) / SAMPLING_RATE,
            skipped=dict(skipped),
            labels=labels,
            hashes=[_hash(row) for row in rows] if self.hash_audio else [],
        )


def _hash(samples: Samples) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16).digest()


def _silence(step: int, skipped: Counter[str]) -> Batch:
    silence = torch.zeros(1, _PADDED_SAMPLES)
    return Batch(
        clean=silence,
        noisy=silence,
        lengths=torch.tensor([_SILENT_SAMPLES]),
        keys=torch.tensor([hash_id("silence")]),
        step=step,
        ids=["silence"],
        seconds=0.0,
        skipped=dict(skipped),
        labels=[Label()],
    )
