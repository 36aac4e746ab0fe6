"""The table of classes that configs from files may name, their schemas, and the legal ranges of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamnest.config.schema import SizeConfig, StatisticsConfig
from streamnest.config.tasks import CTCConfig, DiarizationConfig, RNNTConfig, SpeakerConfig, TaskConfig
from streamnest.data.config import AugmentConfig, DataConfig
from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.files.plain_data import Limits
from streamnest.frontend import FrontendConfig, LogMel
from streamnest.masking import (
    BlocksConfig,
    ChunkConfig,
    ChunkMasking,
    MultiscaleConfig,
    build_masking,
    build_multiscale,
)
from streamnest.objectives import (
    MaskedAndNextToken,
    MaskedAndNextTokenConfig,
    MaskedConfig,
    MaskedPrediction,
    NextTokenConfig,
    NextTokenPrediction,
)
from streamnest.optim import OptimConfig, Optimization
from streamnest.quantizer import QuantizerConfig, RandomProjectionQuantizer
from streamnest.targets import TeacherConfig, TeacherQuantizer


@dataclass(frozen=True)
class AllowedClass:
    """A class that a config may name: its constructor, and the schema of its arguments."""

    make: Callable[..., Any]
    schema: type[Any]


# Tasks import this module, so they are imported when they are needed.
def _pretraining() -> type:
    from streamnest.pretraining import Pretraining

    return Pretraining


def _ctc() -> type:
    from streamnest.downstream.asr.ctc import CTCRecognizer

    return CTCRecognizer


def _rnnt() -> type:
    from streamnest.downstream.asr.rnnt import RNNTRecognizer

    return RNNTRecognizer


def _diarization() -> type:
    from streamnest.downstream.diarization.task import Diarizer

    return Diarizer


def _speaker() -> type:
    from streamnest.downstream.speaker.task import SpeakerRecognizer

    return SpeakerRecognizer


# By group and `_target_`; the first one of a group is the default.
ALLOWED: dict[str, dict[str, AllowedClass]] = {
    "frontend": {"streamnest.frontend.LogMel": AllowedClass(LogMel, FrontendConfig)},
    "encoder": {"streamnest.encoder.FastConformer.build": AllowedClass(FastConformer.build, EncoderConfig)},
    "masking": {
        "streamnest.masking.build_masking": AllowedClass(build_masking, BlocksConfig),
        "streamnest.masking.build_multiscale": AllowedClass(build_multiscale, MultiscaleConfig),
        "streamnest.masking.ChunkMasking": AllowedClass(ChunkMasking, ChunkConfig),
    },
    "quantizer": {
        "streamnest.quantizer.RandomProjectionQuantizer": AllowedClass(RandomProjectionQuantizer, QuantizerConfig),
        "streamnest.targets.TeacherQuantizer": AllowedClass(TeacherQuantizer, TeacherConfig),
    },
    "objective": {
        "streamnest.objectives.MaskedPrediction": AllowedClass(MaskedPrediction, MaskedConfig),
        "streamnest.objectives.NextTokenPrediction": AllowedClass(NextTokenPrediction, NextTokenConfig),
        "streamnest.objectives.MaskedAndNextToken": AllowedClass(MaskedAndNextToken, MaskedAndNextTokenConfig),
    },
    "optim": {"streamnest.optim.Optimization": AllowedClass(Optimization, OptimConfig)},
    # `make` returns the class of the task: it is built from the other groups as well.
    "task": {
        TaskConfig._target_: AllowedClass(_pretraining, TaskConfig),
        CTCConfig._target_: AllowedClass(_ctc, CTCConfig),
        RNNTConfig._target_: AllowedClass(_rnnt, RNNTConfig),
        DiarizationConfig._target_: AllowedClass(_diarization, DiarizationConfig),
        SpeakerConfig._target_: AllowedClass(_speaker, SpeakerConfig),
    },
}
# Groups that describe the training of a stored model. Nothing is built from them when a model is loaded; their
# `_target_` may be one that the configs of this or an earlier version contain.
HISTORY: dict[str, tuple[str, ...]] = {
    "data": ("streamnest.data.datamodule.SpeechDataModule",),
    "augment": (
        "streamnest.data.augment.augmentation.Augmentation",
        "streamnest.data.augment.augmentation.Augmentation.build",
        "streamnest.data.augment.noise_and_speakers.NoiseAndSpeakerMixing",
    ),
    "augment.reverb": ("streamnest.data.augment.reverb.Reverberation",),
    "augment.speed": ("streamnest.data.augment.speed.SpeedPerturbation",),
    "trainer": ("lightning.Trainer",),
    "trainer.strategy": ("streamnest.distributed.sharding.FullySharded",),
    "statistics": (),
}
SCHEMAS: dict[str, type] = {
    "data": DataConfig,
    "augment": AugmentConfig,
    "statistics": StatisticsConfig,
    "size": SizeConfig,
}
# Far above realistic values; a file with larger numbers could exhaust memory or never finish.
LIMITS: Limits = {
    **{"sample_rate": (1000, 768_000), "num_mels": (1, 1024), "window_ms": (1, 1000), "hop_ms": (1, 1000)},
    **{"n_fft": (16, 16_384), "preemphasis": (-1, 1), "dither": (0, 1)},
    **{
        "subsampling_factor": (1, 64),
        "subsampling_channels": (1, 8192),
        "d_model": (1, 16_384),
        "num_layers": (1, 512),
    },
    **{"num_heads": (1, 1024), "ff_expansion": (1, 64), "conv_kernel_size": (1, 1025)},
    **{"left_context_ms": (-1, 600_000), "right_context_ms": (-1, 120_000), "chunk_ms": (0, 120_000)},
    "weight": (-1e9, 1e9),
    **{
        "feat_in": (1, 1024),
        "stack": (1, 64),
        "num_classes": (0, 1 << 20),
        "num_codebooks": (0, 64),
        "code_dim": (0, 4096),
        "width": (0, 16_384),
    },
    **{"num_offsets": (0, 256), "block_size": (0, 1_000_000), "block_sizes": (0, 1_000_000)},
    **{"chunk_frames": (0, 1_000_000), "seed": (-(1 << 63), (1 << 63) - 1), "max_steps": (-1, 1 << 40)},
    **{"vocab_size": (0, 1 << 20), "prediction_dim": (0, 4096), "context_size": (0, 64), "prediction_layers": (0, 8)},
    **{"joiner_dim": (0, 8192), "max_symbols": (0, 100), "max_scores": (0, 1 << 40), "max_speakers": (1, 64)},
    **{"intermediate_layers": (1, 512), "head_size": (1, 4096), "embedding_size": (1, 8192), "trials": (0, 1 << 30)},
    **{"offline_weight": (0, 1e9), "distillation_weight": (0, 1e9), "delay_ms": (0, 60_000)},
    **{"median_ms": (0, 60_000), "median_lookahead_ms": (0, 60_000), "time_frames": (0, 1_000_000), "bands": (0, 1024)},
}
