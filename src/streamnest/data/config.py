"""Schemas of the config groups `data` and `augment`, the only source of their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING, DictConfig, OmegaConf

from streamnest.errors import UserError


@dataclass
class DataConfig:
    """Settings of `SpeechDataModule`. `parse_sources` describes the forms that a manifest may have.

    Attributes:
        train_manifest: cut manifests or folders of shards, one or several, optionally with weights.
        val_manifest: the same for validation; None disables validation.
        noise_manifest: noise recordings that `augment` mixes in; None mixes in speech of other rows only.
        rir_manifest: room impulse responses for `augment.reverb`; None simulates rooms.
        temperature: weight of each training source as a power of its hours, see `make_mixture`; None uses the weights.
        languages: languages to keep, spelled as in the manifests; None keeps all.
        max_hours: size of a random subset of the training audio, chosen by `seed`. A smaller subset is contained in
            every larger one. None uses all.
        transcribed: drop utterances without text. Long utterances are dropped too, because their text cannot be split.
        min_duration: seconds; shorter utterances are dropped.
        max_duration: seconds; longer utterances are handled according to `on_long`.
        on_long: "split" into windows of `max_duration`, or "skip".
        piece_s: seconds of the pieces in which training processes recordings of any length, each with the state of the
            encoder after the piece before; whole chunks of the encoder. None trains on utterances.
        piece_left_s: seconds of past that an unlimited left context sees while training in pieces.
        batch_duration: maximum padded seconds in a training batch of one process.
        val_batch_duration: the same for validation; None uses `batch_duration`.
        max_batch_size: maximum number of utterances in a batch.
        num_buckets: number of buckets of similar duration; the utterances of a batch come from one bucket.
        seed: seed of the order of the batches and of the subset.
        num_batches: training batches of the whole run; None computes them from the trainer.
        augment_val: apply noise, other speakers and rooms in validation too, identically at every validation.
        channel: "mix" averages the channels of a file; a number, from 0, selects one of them.
        num_workers: processes that load audio; 0 loads in the training process. None is one for each CPU core that
            this process has for itself, at most 4.
        cache_mb: decoded audio that each loading process keeps, in MB; for corpora that fit in memory.
        pin_memory: copy batches to page-locked memory; None does so if there is a GPU.
        check_files: check at start that every audio file exists.
        max_bad_share: maximum share of unusable manifest lines.
        max_skipped_share: maximum share of utterances that turn out to be unreadable during training.
        allow_commands: run the shell commands that manifests name as sources of audio.
    """

    _target_: str = "streamnest.data.datamodule.SpeechDataModule"
    # Sources
    train_manifest: Any = MISSING
    val_manifest: Any = None
    noise_manifest: Any = None
    rir_manifest: Any = None
    temperature: float | None = None
    # Selection of utterances
    languages: list[str] | None = None
    max_hours: float | None = None
    transcribed: bool = False
    # Limits of duration
    min_duration: float = 0.5
    max_duration: float = 16.0
    on_long: str = "split"
    # Pieces of recordings
    piece_s: float | None = None
    piece_left_s: float = 20.0
    # Batches
    batch_duration: float = 60.0
    val_batch_duration: float | None = None
    max_batch_size: int = 64
    num_buckets: int = 8
    seed: int = 0
    num_batches: int | None = None
    augment_val: bool = False
    # Loading
    channel: Any = "mix"
    num_workers: int | None = 0
    cache_mb: float = 0.0
    pin_memory: bool | None = None
    # Checks
    check_files: bool = True
    max_bad_share: float = 0.1
    max_skipped_share: float = 0.1
    allow_commands: bool = False

    @property
    def streams(self) -> int:
        """Recordings that a process trains on at a time with `piece_s`: the rows of a batch."""
        return min(self.max_batch_size, int(self.batch_duration / (self.piece_s or self.batch_duration) + 1e-6))


def require_manifests(cfg: DictConfig) -> None:
    """Checks that every required manifest is set.

    Args:
        cfg: config group `data`.

    Raises:
        UserError: if a manifest is missing.
    """
    missing = [str(key) for key in cfg if OmegaConf.is_missing(cfg, str(key))]
    if missing:
        raise UserError(
            f"{' and '.join(f'data.{key}' for key in missing)} must be set: name a cut manifest or a folder of shards; "
            "`streamnest prepare` makes manifests"
        )


@dataclass
class ReverbConfig:
    """Settings of `Reverberation`.

    Attributes:
        prob: share of utterances that are reverberated.
        t60: range of the reverberation time of simulated rooms, in seconds.
        drr_db: range of the direct-to-reverberant energy ratio of simulated rooms, in dB.
        seed: seed of all random choices.
    """

    _target_: str = "streamnest.data.augment.reverb.Reverberation"
    prob: float = 0.0
    t60: list[float] = field(default_factory=lambda: [0.15, 0.8])
    drr_db: list[float] = field(default_factory=lambda: [-5.0, 15.0])
    seed: int = 0


# The share of a task, or 0 if the config has no task.
_OF_TASK: Any = "${oc.select:task.speed_prob,0}"


@dataclass
class SpeedConfig:
    """Settings of `SpeedPerturbation`.

    Attributes:
        prob: share of utterances whose speed is changed. In a run, its default is `task.speed_prob`.
        factors: speed factors, one of which is chosen at random; 1.1 is faster and about a tenth shorter.
        seed: seed of all random choices.
    """

    _target_: str = "streamnest.data.augment.speed.SpeedPerturbation"
    prob: float = 0.0
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    seed: int = 0


@dataclass
class AugmentConfig:
    """Settings of `Augmentation`: those of `NoiseAndSpeakerMixing`, and of rooms and speed as groups of their own.

    Attributes:
        prob: share of rows that are mixed with something; the other rows are not changed.
        noise_ratio: share of the mixed rows that get noise; the others get speech. If one kind is not available, the
            other one is used.
        noise_db: range of the speech-to-noise ratio in dB.
        speech_db: range of the ratio of speech to added speech in dB.
        mix_rate: range of the share of a row that is covered.
        segments: range of the number of segments of the covered part, placed at random without overlap.
        speakers: range of the number of rows that added speech is taken from; each segment uses one of them.
        seed: seed of all random choices; `reverb` and `speed` use it too unless they set their own.
        reverb: settings of the rooms.
        speed: settings of the speed.
    """

    _target_: str = "streamnest.data.augment.augmentation.Augmentation"
    prob: float = 0.5
    noise_ratio: float = 0.5
    noise_db: list[float] = field(default_factory=lambda: [-5.0, 20.0])
    speech_db: list[float] = field(default_factory=lambda: [-5.0, 5.0])
    mix_rate: list[float] = field(default_factory=lambda: [0.5, 0.5])
    segments: list[int] = field(default_factory=lambda: [1, 1])
    speakers: list[int] = field(default_factory=lambda: [1, 1])
    seed: int = 0
    reverb: ReverbConfig = field(default_factory=lambda: ReverbConfig(seed=II("..seed")))
    speed: SpeedConfig = field(default_factory=lambda: SpeedConfig(prob=_OF_TASK, seed=II("..seed")))


# Range of the length of a conversation in seconds; each track is in memory.
SHORTEST_S, LONGEST_S = 1.0, 3600.0


@dataclass
class ConversationConfig:
    """Settings of `ConversationSimulator`, the node `task.conversations`.

    Attributes:
        seconds: duration of each conversation.
        speakers: range of the number of speakers.
        turn: range of the maximum duration of a turn, in seconds; longer utterances are cut off.
        pause: range of the pause between turns and before the first one, in seconds.
        overlap_prob: share of speaker changes in which the next speaker starts before the last turn has ended.
        overlap: range of the duration of such an overlap, in seconds.
        stay_prob: share of turns after which the same speaker continues.
        level_db: range of the level of each speaker, in dB of full scale.
    """

    seconds: float = 15.0
    speakers: list[int] = field(default_factory=lambda: [1, 4])
    turn: list[float] = field(default_factory=lambda: [1.0, 6.0])
    pause: list[float] = field(default_factory=lambda: [0.0, 1.0])
    overlap_prob: float = 0.3
    overlap: list[float] = field(default_factory=lambda: [0.2, 2.0])
    stay_prob: float = 0.2
    level_db: list[float] = field(default_factory=lambda: [-32.0, -20.0])
