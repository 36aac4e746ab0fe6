"""Typed schemas of the config groups, registered with Hydra so that a misspelled key is refused before anything runs.

The YAML files of a group inherit from its schema, `base_<group>`. Schemas of parts of a model are defined with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from streamnest.config.tasks import CTCConfig, DiarizationConfig, RNNTConfig, SpeakerConfig, TaskConfig
from streamnest.data.config import AugmentConfig, DataConfig
from streamnest.encoder import EncoderConfig
from streamnest.frontend import FrontendConfig
from streamnest.masking import BlocksConfig, ChunkConfig, MaskingConfig, MultiscaleConfig
from streamnest.objectives import MaskedAndNextTokenConfig, MaskedConfig, NextTokenConfig, ObjectiveConfig
from streamnest.optim import OptimConfig
from streamnest.quantizer import QuantizerConfig, TargetConfig
from streamnest.targets import TeacherConfig


@dataclass
class SizeConfig:
    """Schema of the `size` group."""

    d_model: int = 256
    num_layers: int = 8
    num_heads: int = 4
    ff_expansion: int = 4
    subsampling_channels: int = 256
    conv_kernel_size: int = 9
    bias: bool = True
    scale_input: bool = True
    dropout: float = 0.1


@dataclass
class TrainerConfig:
    """Schema of the `trainer` group: arguments of `lightning.Trainer`; others are added with `+trainer.KEY=VALUE`.

    Attributes:
        max_audio_hours: hours of audio over all processes after which training ends, in place of `max_steps`, which is
            then computed from the data; not an argument of `lightning.Trainer`.
        val_every_hours: hours of audio between validations, in place of `val_check_interval`; the same.
    """

    _target_: str = "lightning.Trainer"
    max_steps: int = 1000
    max_audio_hours: float | None = None
    val_every_hours: float | None = None
    max_time: str | None = None
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: Any = "auto"
    precision: Any = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0
    val_check_interval: int = 200
    check_val_every_n_epoch: int | None = None
    limit_val_batches: Any = 1.0
    limit_train_batches: Any = None
    num_sanity_val_steps: int = 0
    log_every_n_steps: int = 10
    deterministic: Any = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    profiler: str | None = None
    enable_model_summary: bool = False
    use_distributed_sampler: bool = False
    max_epochs: int = -1
    default_root_dir: str = "${paths.output_dir}"


@dataclass
class PathsConfig:
    """Schema of the `paths` group."""

    root_dir: str = MISSING
    data_dir: str = MISSING
    log_dir: str = MISSING
    output_dir: str = MISSING


@dataclass
class StatisticsConfig:
    """Amount of training audio that the corpus statistics are computed from."""

    hours: float = 1.0


@dataclass
class TrainConfig:
    """Schema of the whole config."""

    task: TaskConfig = field(default_factory=TaskConfig)
    seed: int = 0
    ckpt_path: str | None = None
    run_id: str | None = None
    init_from: str | None = None
    encoder_from: str | None = None
    freeze: Any = None
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    quantizer: TargetConfig = field(default_factory=TargetConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    name: str = ""
    variant: str | None = None
    tags: list[str] = field(default_factory=list)
    print_config: bool = False
    threads: int | None = None
    compile: bool = False
    float32_matmul_precision: str = "highest"


@cache
def register() -> None:
    """Registers schemas and resolvers, once per process, because Hydra copies every schema, which is slow."""
    store = ConfigStore.instance()
    store.store(name="base_train", node=TrainConfig)
    for group, node in _GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=node)
    for group, choices in _CHOICES.items():
        for name, node in choices.items():
            store.store(group=group, name=f"base_{name}", node=node)
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver("either", lambda *values: next(v for v in values if v is not None), replace=True)
    OmegaConf.register_new_resolver("least", lambda *values: min(v for v in values if v > 0), replace=True)
    OmegaConf.register_new_resolver("tenth", lambda steps: max(1, steps // 10), replace=True)


def _run_name(
    task: str, encoder_from: str | None, encoder: str, masking: str, size: str, variant: str | int | None
) -> str:
    """Names a run after its encoder, its masking in pretraining, its size and its variant."""
    ending = "" if variant is None else f"-{variant}"
    if task == "pretrain":
        return f"{encoder}-{masking}-{size}{ending}"
    return (f"{task}-pretrained" if encoder_from else f"{task}-{encoder}-{size}") + ending


_GROUPS: dict[str, Any] = {
    "task": TaskConfig,
    "encoder": EncoderConfig,
    "size": SizeConfig,
    "quantizer": QuantizerConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "trainer": TrainerConfig,
    "paths": PathsConfig,
}
# Groups with a schema for each choice: a value that only another choice has is refused too.
_CHOICES: dict[str, dict[str, Any]] = {
    "task": {"ctc": CTCConfig, "rnnt": RNNTConfig, "diarization": DiarizationConfig, "speaker": SpeakerConfig},
    "quantizer": {"teacher": TeacherConfig},
    "masking": {"blocks": BlocksConfig, "multiscale": MultiscaleConfig, "chunk": ChunkConfig},
    "objective": {
        "masked": MaskedConfig,
        "next_token": NextTokenConfig,
        "masked_next_token": MaskedAndNextTokenConfig,
    },
}
