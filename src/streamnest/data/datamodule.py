"""The data of a run, as Lightning wants it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import lightning as L
import torch

from streamnest.data.audio import SAMPLING_RATE, BadAudioError, Channel, load_mono, source_name
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.augment.noise import NoiseBank
from streamnest.data.augment.rooms import RoomBank
from streamnest.data.batch import Batch
from streamnest.data.dataset import SpeechDataset
from streamnest.data.labels import Label, keep_channel, label_of, suitable, within_hours
from streamnest.data.loading import ResumableLoader
from streamnest.data.manifest import LoadReport
from streamnest.data.sampling.mixing import Mixture, make_mixture
from streamnest.data.sampling.samplers import BucketBatchSampler, OnePassSampler
from streamnest.data.sampling.sources import Corpus, digest, load_source, parse_sources
from streamnest.errors import UserError

Manifests = str | Sequence[Any] | Mapping[str, Any]
# Of noise: a cut is decoded whole, so long recordings are read as windows.
_NOISE_WINDOW = 30.0
# Of room impulse responses: some are short, and a window of one would be no response.
_RIR_LIMITS: dict[str, Any] = {"min_duration": 0.005, "max_duration": 60.0, "on_long": "skip"}
# Utterances, before their share of unreadable ones means anything.
_ENOUGH = 200
# Utterances that are read at the start, until one can be.
_TRIED = 20
# For a run that is bounded by time and not by steps.
_ENDLESS = 2**31 - 1


class SpeechDataModule(L.LightningDataModule):
    """Lhotse cuts, of files or shards, as endless training batches and fixed validation batches.

    Use with `Trainer(use_distributed_sampler=False, max_epochs=-1, check_val_every_n_epoch=None)`: the training loader
    is one endless epoch, each rank takes its own batches, and the loader's own state makes a resume exact.

    Args:
        train_manifest: one or several cut manifests or folders of shards, with weights if so wished; see
            `parse_sources`.
        val_manifest: the same for validation; None for none.
        noise_manifest: the same for noise, which `augment` mixes in; None for none.
        rir_manifest: the same for room impulse responses, which `augment` reverberates with; None for simulated ones.
        temperature: mixes the training sources by their hours; see `make_mixture`. None for their weights.
        batch_duration: most padded seconds in a training batch of one process.
        max_batch_size: most utterances in a batch.
        num_buckets: of similar duration, from which batches are drawn.
        min_duration: seconds; shorter utterances are dropped.
        max_duration: seconds; longer ones are dealt with as `on_long` says.
        on_long: "split" into windows or "skip".
        channel: of files with several: "mix" or a number from 0.
        num_workers: processes that load audio; 0 loads in the training process.
        cache_mb: decoded audio that each loading process keeps; for corpora that fit in memory.
        seed: of the order of the batches.
        num_batches: training batches of the whole run; None takes them from the trainer.
        augment: makes the noisy audio and changes the speed of all; None for clean audio. The limits of duration and
            of batches hold for what is heard, whatever its speed.
        augment_val: noise, voices and rooms also in validation, the same at every step.
        val_batch_duration: most padded seconds in a validation batch; None for `batch_duration`.
        pin_memory: None for where there is a GPU.
        check_files: look for every file at start.
        max_bad_share: share of manifest lines that may be unusable.
        max_skipped_share: share of utterances that may turn out unreadable while training; more ends the run.
        languages: of the utterances, as the manifests write them; None for all.
        max_hours: a random choice of so much training audio, drawn by `seed`; less is part of more. None for all.
        transcribed: drop utterances without text, and long ones as well, as text cannot be split with them.
        allow_commands: run the shell commands that manifests name as sources of audio.

    Raises:
        UserError: see `load_cuts`; also for missing noise, and where nothing is left of a choice.
    """

    def __init__(
        self,
        train_manifest: Manifests,
        val_manifest: Manifests | None = None,
        noise_manifest: Manifests | None = None,
        rir_manifest: Manifests | None = None,
        temperature: float | None = None,
        batch_duration: float = 60.0,
        max_batch_size: int = 64,
        num_buckets: int = 8,
        min_duration: float = 0.5,
        max_duration: float = 16.0,
        on_long: Literal["split", "skip"] = "split",
        channel: Channel = "mix",
        num_workers: int = 0,
        cache_mb: float = 0.0,
        seed: int = 0,
        num_batches: int | None = None,
        augment: Augmentation | None = None,
        augment_val: bool = False,
        val_batch_duration: float | None = None,
        pin_memory: bool | None = None,
        check_files: bool = True,
        max_bad_share: float = 0.1,
        max_skipped_share: float = 0.1,
        languages: Sequence[str] | None = None,
        max_hours: float | None = None,
        transcribed: bool = False,
        allow_commands: bool = False,
    ) -> None:
        super().__init__()
        if not train_manifest:
            raise UserError("data.train_manifest is empty: name a manifest, several of them, or folders of shards")
        self.allow_commands = allow_commands
        parts = {"train": train_manifest, "val": val_manifest, "noise": noise_manifest, "rir": rir_manifest}
        self.sources = {part: parse_sources(manifests) for part, manifests in parts.items()}
        self.temperature = temperature
        self.loading: dict[str, Any] = {
            "check_files": check_files,
            "max_bad_share": max_bad_share,
            "allow_commands": allow_commands,
        }
        limits = {"min_duration": min_duration, "max_duration": max_duration}
        self.selection: dict[str, Any] = {**limits, "on_long": "skip" if transcribed else on_long}
        self.languages, self.max_hours, self.transcribed = languages, max_hours, transcribed
        self.batch_duration, self.max_batch_size, self.num_buckets = batch_duration, max_batch_size, num_buckets
        self.val_batch_duration = val_batch_duration or batch_duration
        self.channel, self.seed, self.num_batches = _channel(channel), seed, num_batches
        self.augment, self.augment_val = augment, augment_val
        self.num_workers, self.cache_mb = num_workers, cache_mb
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.report: dict[str, LoadReport] = {}
        self._known: set[str] = set()
        self.max_skipped_share = max_skipped_share
        self.skipped: Counter[str] = Counter()
        self._due = 0
        self._cuts: dict[str, Corpus] = {}
        self._mixture: Mixture | None = None
        self._warned: set[str] = set()

    def setup(self, stage: str | None = None) -> None:
        """Reads the manifests, once; `stage` makes no difference."""
        if self._cuts:
            return
        cuts = {"train": self._load("train", **self._train_selection()), "val": self._load("val", **self.selection)}
        cuts = {part: self._choose(part, corpus) for part, corpus in cuts.items()}
        for part, corpus in cuts.items():
            self._require_readable(part, corpus)
        names, weights = [s.name for s in self.sources["train"]], [s.weight for s in self.sources["train"]]
        self._mixture = make_mixture(cuts["train"].lengths, cuts["train"].sizes, names, weights, self.temperature)
        if self.augment is not None:
            self._load_recordings(self.augment)
        self._cuts = cuts

    @property
    def train_hours(self) -> float:
        """Hours of usable training audio."""
        return self.report["train"].hours

    @property
    def val_hours(self) -> float:
        """Hours of usable validation audio."""
        return self.report["val"].hours

    @property
    def speakers(self) -> set[str]:
        """Speakers of the training set, as far as the manifests name them."""
        return self.report["train"].speakers

    def knows(self, label: Label) -> bool | None:
        """Whether the speaker of an utterance was heard in training, whatever `max_hours` chose; None without a name.

        A custom field `speaker_in_train` has the last word.
        """
        if label.speaker_in_train is not None:
            return label.speaker_in_train
        return None if label.speaker is None else label.speaker in self._known

    def texts(self) -> Iterator[str]:
        """The texts of the training set."""
        return (text for cut in self._cuts["train"] if (text := label_of(cut).text) is not None)

    def train_dataloader(self) -> ResumableLoader:
        """Endless batches; its state is that of the data."""
        dataset = self._dataset("train", self.augment, self.cache_mb)
        dataset.speed = self.augment.speed if self.augment else None
        rank, world_size = self._place()
        return self._loader(dataset, self._sampler(dataset, self._num_batches(), self.seed, rank, world_size))

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Every utterance once, sorted by duration; an empty list where there is no validation set."""
        if not self._cuts["val"]:
            return []
        dataset = self._dataset("val", self.augment if self.augment_val else None, self.cache_mb)
        limits = (self.val_batch_duration, self.max_batch_size)
        return self._loader(dataset, OnePassSampler(dataset.durations, *limits, *self._place()))

    def statistics_batches(self) -> Iterator[Batch]:
        """Clean training audio in a random order that is the same for every rank and seed; one epoch."""
        dataset = self._dataset("train")
        return (dataset[index] for index in self._sampler(dataset, num_batches=None, seed=0))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Counts what was skipped, by cause, each time it was due.

        Raises:
            UserError: when it is more than the share allowed.
        """
        self.skipped.update(batch.skipped)
        self._due += len(batch.ids) + sum(batch.skipped.values()) if batch.due is None else batch.due
        skipped = sum(self.skipped.values())
        if self._due >= _ENOUGH and skipped > self.max_skipped_share * self._due:
            causes = ", ".join(f"{count} {cause}" for cause, count in self.skipped.most_common())
            raise UserError(
                f"{skipped} of {self._due} utterances could not be read ({causes}): more than "
                f"data.max_skipped_share={self.max_skipped_share:g}; the log names the files"
            )
        return batch

    def _train_selection(self) -> dict[str, Any]:
        """The limits of duration, so that whatever the speed they hold for what is heard."""
        if self.augment is None:
            return self.selection
        speed, limits = self.augment.speed, self.selection
        shortest, longest = limits["min_duration"] * speed.fastest, limits["max_duration"] * speed.slowest
        return {**limits, "min_duration": shortest, "max_duration": longest}

    def _load_recordings(self, augment: Augmentation) -> None:
        """Noise and rooms, where they are asked for."""
        if self.sources["noise"]:
            augment.mixing.noise = NoiseBank(self._load("noise", max_duration=_NOISE_WINDOW))
        if self.sources["rir"] and augment.reverb.prob:
            augment.reverb.rooms = RoomBank(self._load("rir", **_RIR_LIMITS))

    def _dataset(self, part: str, augment: Augmentation | None = None, cache_mb: float = 0.0) -> SpeechDataset:
        return SpeechDataset(self._cuts[part], augment, self.channel, cache_mb, self._warned)

    def _load(self, part: str, **selection: Any) -> Corpus:
        """The cuts of all sources of a part."""
        options = {"sampling_rate": SAMPLING_RATE, **self.loading, **selection}
        loaded = [load_source(source.path, **options) for source in self.sources[part]]
        self.report[part] = sum((report for _, report in loaded), LoadReport())
        if isinstance(self.channel, int) and part in ("train", "val"):
            for cuts in (cuts for cuts, _ in loaded if isinstance(cuts, list)):
                keep_channel(cuts, self.channel)
        return Corpus([cuts for cuts, _ in loaded])

    def _choose(self, part: str, corpus: Corpus) -> Corpus:
        """The cuts that `languages`, `transcribed` and, in training, `max_hours` leave; the report follows."""
        report = self.report[part]
        parts = [suitable(cuts, self.languages, self.transcribed, report.counts) for cuts in corpus.parts]
        if part == "train":
            self._known = _speakers(parts) if parts != corpus.parts else report.speakers
            if self.max_hours is not None:
                parts = within_hours(parts, self.max_hours, self.seed)
        if parts == corpus.parts:
            return corpus
        chosen = Corpus(parts)
        if not len(chosen):
            wanted = f"data.languages={list(self.languages)}" if self.languages is not None else "texts, for this task"
            raise UserError(f"data: nothing is left of the {part} set: {report}; what is left out lacks {wanted}")
        self.report[part] = LoadReport(float(chosen.durations.sum()), len(chosen), _speakers(parts), report.counts)
        return chosen

    def _require_readable(self, part: str, corpus: Corpus) -> None:
        """Refuses data of which no sampled utterance can be read, before a run trains on silence."""
        if self.max_skipped_share >= 1 or not len(corpus):
            return
        first, tried = "", range(0, len(corpus), -(-len(corpus) // _TRIED))
        for index in tried:
            try:
                load_mono(corpus[index], self.channel)
                return
            except BadAudioError as error:
                first = first or f"{source_name(corpus[index])}: {error}"
        raise UserError(f"data: none of {len(tried)} utterances of the {part} set can be read, first {first}")

    def _sampler(
        self, dataset: SpeechDataset, num_batches: int | None, seed: int, rank: int = 0, world_size: int = 1
    ) -> BucketBatchSampler:
        # As much as fits if all are as slow as they may get.
        longest = self.batch_duration * (dataset.speed.slowest if dataset.speed else 1.0)
        limits = (longest, self.max_batch_size, self.num_buckets)
        place = (rank, world_size)
        known = partial(digest, dataset.cuts)
        return BucketBatchSampler(
            dataset.lengths, *limits, num_batches, seed, *place, mixture=self._mixture, digest=known
        )

    def _loader(self, dataset: SpeechDataset, sampler: BucketBatchSampler | OnePassSampler) -> ResumableLoader:
        return ResumableLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_signals_to_the_main_process,
        )

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _num_batches(self) -> int:
        if self.num_batches is not None:
            return self.num_batches
        if self.trainer is None:
            raise UserError("data.num_batches is not set and there is no trainer to take it from")
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches if self.trainer.max_steps > 0 else _ENDLESS


def _speakers(parts: Sequence[Sequence[Any]]) -> set[str]:
    return {s.speaker for cuts in parts for cut in cuts for s in cut.supervisions if s.speaker}


def _leave_signals_to_the_main_process(_: int) -> None:
    """SLURM, terminals and torchrun signal workers as well, and the step that is to be finished still needs them.

    They end with the process that they load for, however that ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _channel(channel: Channel) -> Channel:
    if channel == "mix" or (isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0):
        return channel
    raise UserError(f"data.channel={channel!r}: choose mix or a channel number from 0")
