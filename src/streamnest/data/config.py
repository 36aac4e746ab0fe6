"""Schemas of the config groups `data` and `augment`; the fields are those of the classes they build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING, DictConfig, OmegaConf

from streamnest.errors import UserError


@dataclass
class DataConfig:
    """Arguments of `SpeechDataModule`. A manifest is what `parse_sources` takes: a path, a list or named sources."""

    _target_: str = "streamnest.data.datamodule.SpeechDataModule"
    train_manifest: Any = MISSING
    val_manifest: Any = None
    noise_manifest: Any = None
    rir_manifest: Any = None
    temperature: float | None = None
    batch_duration: float = 60.0
    max_batch_size: int = 64
    num_buckets: int = 8
    min_duration: float = 0.5
    max_duration: float = 16.0
    on_long: str = "split"
    channel: Any = "mix"
    num_workers: int = 0
    cache_mb: float = 0.0
    seed: int = 0
    num_batches: int | None = None
    augment_val: bool = False
    val_batch_duration: float | None = None
    pin_memory: bool | None = None
    check_files: bool = True
    max_bad_share: float = 0.1
    max_skipped_share: float = 0.1
    languages: list[str] | None = None
    max_hours: float | None = None
    transcribed: bool = False
    allow_commands: bool = False


def require_manifests(cfg: DictConfig) -> None:
    """Checks that no manifest was left out.

    Args:
        cfg: config group `data`.

    Raises:
        UserError: for some that are missing.
    """
    missing = [str(key) for key in cfg if OmegaConf.is_missing(cfg, str(key))]
    if missing:
        raise UserError(
            f"{' and '.join(f'data.{key}' for key in missing)} must be set: name a cut manifest or a folder of shards; "
            "streamnest prepare makes manifests"
        )


@dataclass
class ReverbConfig:
    """Arguments of `Reverberation`."""

    _target_: str = "streamnest.data.augment.reverb.Reverberation"
    prob: float = 0.0
    t60: list[float] = field(default_factory=lambda: [0.15, 0.8])
    drr_db: list[float] = field(default_factory=lambda: [-5.0, 15.0])
    seed: int = II("..seed")


@dataclass
class SpeedConfig:
    """Arguments of `SpeedPerturbation`."""

    _target_: str = "streamnest.data.augment.speed.SpeedPerturbation"
    prob: float = 0.0
    factors: list[float] = field(default_factory=lambda: [0.9, 1.1])
    seed: int = II("..seed")


@dataclass
class AugmentConfig:
    """Arguments of `Augmentation.build`: those of `NoiseAndSpeakerMixing`, and the other parts."""

    _target_: str = "streamnest.data.augment.augmentation.Augmentation.build"
    prob: float = 0.5
    noise_ratio: float = 0.5
    noise_db: list[float] = field(default_factory=lambda: [-5.0, 20.0])
    speech_db: list[float] = field(default_factory=lambda: [-5.0, 5.0])
    mix_rate: list[float] = field(default_factory=lambda: [0.5, 0.5])
    segments: list[int] = field(default_factory=lambda: [1, 1])
    speakers: list[int] = field(default_factory=lambda: [1, 1])
    seed: int = 0
    reverb: ReverbConfig = field(default_factory=ReverbConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)


@dataclass
class ConversationConfig:
    """Schema of `task.conversations`; the fields are the arguments of `ConversationSimulator`."""

    seconds: float = 15.0
    speakers: list[int] = field(default_factory=lambda: [1, 4])
    turn: list[float] = field(default_factory=lambda: [1.0, 6.0])
    pause: list[float] = field(default_factory=lambda: [0.0, 1.0])
    overlap_prob: float = 0.3
    overlap: list[float] = field(default_factory=lambda: [0.2, 2.0])
    stay_prob: float = 0.2
    level_db: list[float] = field(default_factory=lambda: [-32.0, -20.0])
