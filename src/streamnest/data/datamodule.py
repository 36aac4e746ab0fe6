"""Lightning data module: training, validation, noise and room recordings of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
from omegaconf import MISSING

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.augment.noise import NoiseBank
from streamnest.data.augment.rooms import RoomBank
from streamnest.data.batch import Batch
from streamnest.data.config import DataConfig
from streamnest.data.dataset import SpeechDataset
from streamnest.data.labels import Label, label_of, suitable, within_hours
from streamnest.data.loading import ResumableLoader, TrainingSampler, default_workers, make_loader
from streamnest.data.manifest import LoadReport
from streamnest.data.piece_dataset import PieceDataset
from streamnest.data.reading import load_part, report_of, require_readable, speakers_of, splits_long
from streamnest.data.sampling.durations import total
from streamnest.data.sampling.mixing import Mixture, make_mixture
from streamnest.data.sampling.piece_sampler import PieceSampler
from streamnest.data.sampling.samplers import BucketBatchSampler, OnePassSampler
from streamnest.data.sampling.sources import Corpus, digest, parse_sources
from streamnest.data.skipping import SkipCounter
from streamnest.errors import UserError

# Number of batches of a run that is limited by time instead of steps.
_ENDLESS = 2**31 - 1


class SpeechDataModule(L.LightningDataModule):
    """Lhotse cuts from files or shards as an endless stream of training batches and fixed validation batches.

    Use it with `Trainer(use_distributed_sampler=False, max_epochs=-1, check_val_every_n_epoch=None)`: the training
    loader is one endless epoch, each rank takes its own batches, and the state of the loader makes a resume exact.

    Args:
        config: manifests, batches, limits and loading.
        augment: makes the noisy audio and changes the speed of all audio; None for clean audio. The limits of
            durations and batches apply to the audio after its speed is changed: windows of split utterances are short
            enough for the slowest factor, and whole utterances get no factor with which they would leave the limits.

    Attributes:
        report: usable audio and dropped cuts of each part ("train", "val", "noise", "rir"); empty before `setup`.

    Raises:
        UserError: in the cases of `load_cuts`; also if noise is missing or a selection leaves no utterances.
    """

    def __init__(self, config: DataConfig, augment: Augmentation | None = None) -> None:
        super().__init__()
        if not config.train_manifest or config.train_manifest == MISSING:
            raise UserError("data.train_manifest is empty: name a manifest, several of them, or folders of shards")
        _check_channel(config.channel)
        self.config, self.augment = config, augment
        manifests = {part: getattr(config, f"{part}_manifest") for part in ("train", "val", "noise", "rir")}
        self.sources = {part: parse_sources(manifest) for part, manifest in manifests.items()}
        self.hash_audio = False
        self.report: dict[str, LoadReport] = {}
        self.skip_counter = SkipCounter(config.max_skipped_share)
        self._train_speakers: set[str] = set()
        self._cuts: dict[str, Corpus] = {}
        self._mixture: Mixture | None = None
        self._warned: set[str] = set()

    def setup(self, stage: str | None = None) -> None:
        """Reads the manifests unless this has been done; `stage` makes no difference."""
        if self._cuts:
            return
        cuts = {part: self._select(part, self._load(part)) for part in ("train", "val")}
        if self.config.max_skipped_share < 1:
            for part, corpus in cuts.items():
                require_readable(part, corpus, self.config.channel)
        names, weights = [s.name for s in self.sources["train"]], [s.weight for s in self.sources["train"]]
        train = cuts["train"]
        self._mixture = make_mixture(train.lazy_durations, train.sizes, names, weights, self.config.temperature)
        if self.augment is not None:
            self._load_recordings(self.augment)
        self._cuts = cuts

    @property
    def train_hours(self) -> float:
        """Hours of usable training audio."""
        return self.report["train"].hours

    def mean_batch_seconds(self, world_size: int = 1) -> float:
        """Returns the mean seconds of audio in a training batch of one process, padding excluded.

        Args:
            world_size: number of processes.
        """
        dataset = self._dataset("train")
        if self.config.piece_s is not None:
            return total(dataset.lazy_durations) / (self._pieces(dataset, 1, 0, 0, world_size).epoch_steps * world_size)
        dataset.speed = self.augment.speed if self.augment else None
        sampler = self._sampler(dataset, 1, self.config.seed, 0, world_size)
        return self._mean_stretch * total(dataset.lazy_durations) / len(sampler.buckets)

    @property
    def _mean_stretch(self) -> float:
        """Mean factor of durations by speed perturbation."""
        return self.augment.speed.mean_stretch if self.augment else 1.0

    @property
    def speakers(self) -> set[str]:
        """Speakers of the training set, as far as the manifests name them."""
        return self.report["train"].speakers

    @property
    def skipped(self) -> Counter[str]:
        """Number of utterances that could not be read so far, by cause."""
        return self.skip_counter.causes

    def is_seen(self, label: Label) -> bool | None:
        """True if the speaker of an utterance occurs in the training manifest; None if the speaker is not named.

        Speakers whose audio `max_hours` dropped count as seen. The custom field `speaker_in_train` of a cut overrides
        the manifest.
        """
        if label.speaker_in_train is not None:
            return label.speaker_in_train
        return None if label.speaker is None else label.speaker in self._train_speakers

    def texts(self) -> Iterator[str]:
        """Yields the texts of the training set."""
        return (text for cut in self._cuts["train"] if (text := label_of(cut).text) is not None)

    def train_dataloader(self) -> ResumableLoader:
        """Makes the loader of the endless training batches; its state is the position in the data."""
        dataset = self._dataset("train", self.augment, self.config.cache_mb)
        dataset.speed = self.augment.speed if self.augment else None
        if dataset.speed and not splits_long(self.config):
            dataset.speed.limits = (self.config.min_duration, self.config.max_duration)
        make = self._sampler if self.config.piece_s is None else self._pieces
        return self._loader(dataset, make(dataset, self._num_batches(), self.config.seed, *self._rank()))

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Makes the loader of every validation utterance once, sorted by duration; [] if there are none."""
        if not self._cuts["val"]:
            return []
        dataset = self._dataset("val", self.augment if self.config.augment_val else None, self.config.cache_mb)
        limits = (self.config.val_batch_duration or self.config.batch_duration, self.config.max_batch_size)
        return self._loader(dataset, OnePassSampler(dataset.durations, *limits, *self._rank()))

    def statistics_batches(self) -> Iterator[Batch]:
        """Yields one epoch of clean training audio in a random order that is the same for every rank and seed."""
        dataset: Any = self._dataset("train")
        make = self._sampler if self.config.piece_s is None else self._pieces
        indices: Iterable[Any] = make(dataset, num_batches=None, seed=0)
        return (dataset[index] for index in indices)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Counts skipped utterances.

        Raises:
            UserError: if too large a share was skipped.
        """
        self.skip_counter.add(batch)
        return batch

    def _load(self, part: str) -> Corpus:
        speed = self.augment.speed if self.augment else None
        corpus, self.report[part] = load_part(part, self.sources[part], self.config, speed)
        return corpus

    def _select(self, part: str, corpus: Corpus) -> Corpus:
        """Applies `languages`, `transcribed` and, to the training set, `max_hours`; updates the report."""
        c, counts = self.config, self.report[part].counts
        parts = [suitable(cuts, c.languages, c.transcribed, counts) for cuts in corpus.parts]
        if part == "train":
            self._train_speakers = self.report[part].speakers if parts == corpus.parts else speakers_of(parts)
            if c.max_hours is not None:
                parts = within_hours(parts, c.max_hours, c.seed)
        if parts == corpus.parts:
            return corpus
        if not any(map(len, parts)):
            requirement = (
                "has text, which this task needs" if c.languages is None else f"is in data.languages={c.languages}"
            )
            raise UserError(f"data: no utterance of the {part} set {requirement}; found {self.report[part]}")
        selected = Corpus(parts)
        self.report[part] = report_of(selected, counts)
        return selected

    def _load_recordings(self, augment: Augmentation) -> None:
        """Reads noise and room impulse responses if they are needed."""
        if self.sources["noise"]:
            augment.mixing.noise = NoiseBank(self._load("noise"))
        if self.sources["rir"] and augment.reverb.prob:
            augment.reverb.rooms = RoomBank(self._load("rir"))

    def _dataset(self, part: str, augment: Augmentation | None = None, cache_mb: float = 0.0) -> SpeechDataset:
        limits = (self.config.channel, cache_mb, self._warned)
        if part == "train" and self.config.piece_s is not None:
            samples = round(self.config.piece_s * SAMPLING_RATE)
            return PieceDataset(self._cuts[part], samples, augment, *limits, hash_audio=self.hash_audio)
        return SpeechDataset(self._cuts[part], augment, *limits, hash_audio=self.hash_audio)

    def _sampler(
        self, dataset: SpeechDataset, num_batches: int | None, seed: int, rank: int = 0, world_size: int = 1
    ) -> BucketBatchSampler:
        c = self.config
        # The most that fits if every utterance gets the slowest speed.
        longest = c.batch_duration * (dataset.speed.slowest if dataset.speed else 1.0)
        limits, ranks = (longest, c.max_batch_size, c.num_buckets), (rank, world_size)
        checksum = partial(digest, dataset.cuts)
        return BucketBatchSampler(
            dataset.lazy_durations, *limits, num_batches, seed, *ranks, mixture=self._mixture, digest=checksum
        )

    def _pieces(
        self, dataset: SpeechDataset, num_batches: int | None, seed: int, rank: int = 0, world_size: int = 1
    ) -> PieceSampler:
        c, rows = self.config, self.config.streams
        assert c.piece_s is not None
        checksum = partial(digest, dataset.cuts)
        return PieceSampler(dataset.lazy_durations, c.piece_s, rows, num_batches, seed, rank, world_size, checksum)

    def _loader(self, dataset: SpeechDataset, sampler: TrainingSampler | OnePassSampler) -> ResumableLoader:
        pin_memory, workers = self.config.pin_memory, self.config.num_workers
        if workers is None:
            workers = default_workers(self.trainer.num_devices if self.trainer else 1)
        return make_loader(dataset, sampler, workers, torch.cuda.is_available() if pin_memory is None else pin_memory)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _num_batches(self) -> int:
        if self.config.num_batches is not None:
            return self.config.num_batches
        if self.trainer is None:
            raise UserError("data.num_batches is not set, and there is no trainer to compute it from")
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches if self.trainer.max_steps > 0 else _ENDLESS


def _check_channel(channel: Any) -> None:
    if channel != "mix" and (not isinstance(channel, int) or isinstance(channel, bool) or channel < 0):
        raise UserError(f"data.channel={channel!r}: choose mix or a channel number from 0")
