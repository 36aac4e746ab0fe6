"""Legal ranges of the numbers of a config, in one table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from streamnest.data.config import LONGEST_S, SHORTEST_S
from streamnest.errors import UserError


@dataclass(frozen=True)
class Limit:
    """A range of numbers.

    Attributes:
        low: lower bound.
        high: upper bound.
        above: exclude the lower bound.
        below: exclude the upper bound.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """True if a number is legal; numbers that are not finite never are."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and math.isfinite(value)

    def __str__(self) -> str:
        text = f"{'above' if self.above else 'at least'} {self.low:g}"
        return text + (f" and {'below' if self.below else 'at most'} {self.high:.10g}" if self.high < math.inf else "")


_COUNT, _SOME, _POSITIVE, _SHARE = Limit(1), Limit(0), Limit(0, above=True), Limit(0, 1)
_DROPOUT, _SEED = Limit(0, 1, below=True), Limit(0, 2**32 - 1)
_LIMITS = {
    **dict.fromkeys(("seed", "data.seed", "augment.seed", "quantizer.seed"), _SEED),
    # More processes or threads exhaust a machine.
    **{"data.num_workers": Limit(0, 1024), "threads": Limit(1, 1024)},
    # Half of the trials are of one speaker.
    **{"task.trials": Limit(2), "task.conversations.seconds": Limit(SHORTEST_S, LONGEST_S)},
    **dict.fromkeys(
        (
            *(f"{group}.{key}" for group in ("size", "encoder") for key in ("d_model", "num_layers", "num_heads")),
            *(f"{group}.{key}" for group in ("size", "encoder") for key in ("ff_expansion", "subsampling_channels")),
            *("size.conv_kernel_size", "encoder.conv_kernel_size", "encoder.subsampling_factor", "encoder.num_mels"),
            *("frontend.sample_rate", "frontend.num_mels", "frontend.n_fft"),
            *("trainer.num_nodes", "trainer.accumulate_grad_batches", "trainer.val_check_interval"),
            *("data.max_batch_size", "data.num_buckets", "data.num_batches"),
            *("quantizer.stack", "quantizer.num_classes", "quantizer.num_codebooks", "quantizer.code_dim"),
            *("task.vocab_size", "task.prediction_dim", "task.context_size", "task.prediction_layers"),
            *("task.joiner_dim", "task.max_symbols", "task.max_scores", "task.max_speakers", "task.head_size"),
            *("task.val_conversations", "task.embedding_size", "task.conversations.speakers"),
            *("task.intermediate_layers", "task.spec_augment.time_frames"),
            *("callbacks.throughput.window", "callbacks.gradients.max_in_row"),
        ),
        _COUNT,
    ),
    **dict.fromkeys(
        (
            *("encoder.hop_ms", "encoder.chunk_ms", "frontend.window_ms", "frontend.hop_ms", "statistics.hours"),
            *("optim.lr", "optim.encoder_lr_scale", "optim.layer_decay"),
            *("trainer.max_audio_hours", "trainer.val_every_hours"),
            *("data.batch_duration", "data.val_batch_duration", "data.max_duration", "data.max_hours"),
            *("data.piece_s", "data.piece_left_s"),
            *("data.temperature", "augment.speed.factors", "augment.reverb.t60"),
            *("task.scale", "task.conversations.turn", "task.consistency_time_scale"),
            *("callbacks.plots.seconds", "callbacks.gradients.spike"),
        ),
        _POSITIVE,
    ),
    **dict.fromkeys(
        (
            *("optim.min_lr", "optim.warmup_steps", "optim.weight_decay", "frontend.dither"),
            *("encoder.left_context_ms", "encoder.right_context_ms"),
            *("trainer.gradient_clip_val", "trainer.limit_val_batches", "trainer.limit_train_batches"),
            *("trainer.num_sanity_val_steps", "trainer.log_every_n_steps"),
            *("data.min_duration", "data.cache_mb"),
            "quantizer.layer",
            *("task.median_ms", "task.median_lookahead_ms", "task.collar", "task.margin"),
            *("task.conversations.pause", "task.conversations.overlap", "task.consistency_weight"),
            *("task.teacher_weight", "task.teacher_delay_ms"),
            *(f"task.dual_mode.{key}" for key in ("offline_weight", "distillation_weight", "delay_ms")),
            *("task.spec_augment.bands", "task.spec_augment.band_width"),
            *("callbacks.watchdog.seconds", "callbacks.collapse.min_rank"),
        ),
        _SOME,
    ),
    **dict.fromkeys(
        (
            *("data.max_bad_share", "data.max_skipped_share", "augment.prob", "augment.noise_ratio"),
            *(
                "augment.reverb.prob",
                "augment.speed.prob",
                "task.speed_prob",
                "frontend.preemphasis",
                "callbacks.collapse.min_codes_used_share",
            ),
            *("task.threshold", "task.spec_augment.time_prob", "task.conversations.overlap_prob"),
            *("task.conversations.stay_prob", "optim.hold_share", "optim.final_scale"),
        ),
        _SHARE,
    ),
    **dict.fromkeys(
        (
            *(f"{group}.dropout" for group in ("size", "encoder")),
            *("encoder.dropout_input", "encoder.dropout_attention", "optim.betas", "callbacks.ema.decay"),
            *("task.intermediate_weight", "task.label_smoothing"),
        ),
        _DROPOUT,
    ),
}
# For these, -1 is "no limit" or "all devices".
_OR_MINUS_ONE = {"trainer.max_steps": _COUNT, "trainer.max_epochs": _COUNT, "trainer.devices": _COUNT}
_NAMES = {
    "float32_matmul_precision": ("highest", "high", "medium"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
}


def refuse_out_of_range(cfg: DictConfig) -> None:
    """Refuses the first number of a config that is out of range.

    Raises:
        UserError: with the key, the value and the range.
    """
    for key, limit in _LIMITS.items():
        for value in _numbers(OmegaConf.select(cfg, key)):
            if not limit.holds(value):
                raise UserError(f"{key}={value:g} is out of range: give a number {limit}")
    for key, limit in _OR_MINUS_ONE.items():
        for value in _numbers(OmegaConf.select(cfg, key)):
            if value != -1 and not limit.holds(value):
                raise UserError(f"{key}={value:g} is out of range: give a number {limit}, or -1 for no limit")
    if len(cfg.optim.betas) != 2:
        raise UserError(f"optim.betas={list(cfg.optim.betas)}: give two numbers {_DROPOUT}")
    for key, names in _NAMES.items():
        name = OmegaConf.select(cfg, key)
        if isinstance(name, str) and name not in names:
            raise UserError(f"{key}={name}: choose one of {', '.join(names)}")


def refuse_trainer(cfg: DictConfig) -> None:
    """Refuses settings of the trainer that this project or this machine does not support, before data is read.

    Raises:
        UserError: with a setting that is supported.
    """
    import torch  # takes seconds and is not needed to compose a config

    trainer = cfg.trainer
    if trainer.get("fast_dev_run"):
        raise UserError(
            "trainer.fast_dev_run is not supported: debug=fast makes a short run that is checked as a whole"
        )
    wanted = trainer.accelerator in ("gpu", "cuda")
    if wanted and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}: torch {torch.__version__} finds no GPU: use trainer=cpu, or "
            "install a driver and a build of torch for the GPU"
        )
    devices, present = trainer.devices, torch.cuda.device_count()
    if wanted and isinstance(devices, int) and devices > present > 0:
        raise UserError(f"trainer.devices={devices}: this machine has {present} GPU(s): give at most {present}, or -1")


def _numbers(value: Any) -> Iterator[float]:
    """Yields the number, or the numbers of a list."""
    if isinstance(value, (list, tuple, ListConfig)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
