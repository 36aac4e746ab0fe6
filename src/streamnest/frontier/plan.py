"""Stages of a frontier, their dependencies, and a hash of everything that determines the result of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from streamnest.frontier.options import FrontierOptions, setting_of
from streamnest.frontier.overrides import finetuning_overrides, pretraining_overrides

Kind = Literal["pretrain", "finetune", "evaluate", "probe"]
# Settings that affect logging and loading but not the result.
_WATCHED = (
    "logger",
    "name",
    "tags",
    "paths",
    "print_config",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
    "trainer.val_every_hours",
)
_ASIDE = (*_WATCHED, "data.num_workers", "data.cache_mb")


@dataclass(frozen=True)
class Stage:
    """One process: a training run, an evaluation or a probe.

    Attributes:
        kind: kind of the stage.
        preset: encoder preset.
        seed: seed of data order, masks and initial weights.
        overrides: overrides of a training run; `name=value` options of an evaluation or probe.
        needs: stage whose checkpoint is the input.
        pretrained: True if the encoder is pretrained; None if that does not apply.
        hours: label budget; None is all labels.
        context: latency context of a dynamic checkpoint.
        variant: name of the variant of pretraining; None is the baseline.
        configs: digest of the config files of a training run; see `frontier/configs.py`.
    """

    kind: Kind
    preset: str
    seed: int
    overrides: tuple[str, ...]
    needs: Stage | None = None
    pretrained: bool | None = None
    hours: float | None = None
    context: str | None = None
    variant: str | None = None
    configs: str = ""

    @cached_property
    def key(self) -> str:
        """Hash of overrides, configs and, through `needs`, of all preceding stages."""
        deciding = sorted(override for override in self.overrides if affects_result(setting_of(override)))
        before = self.needs.key if self.needs else None
        configs = [self.configs] if self.configs else []
        return hashlib.sha256(json.dumps([self.kind, deciding, before, *configs]).encode()).hexdigest()[:12]

    @property
    def run(self) -> str:
        """Name of the run and its folder."""
        return f"{self.kind}_{self.preset}_{self.key}"

    @property
    def title(self) -> str:
        """Description for progress messages."""
        parts = [self.kind, self.preset]
        parts += [f"variant {self.variant}"] if self.variant else []
        parts += [f"in context {self.context}"] if self.context else []
        parts += [] if self.pretrained is None else ["pretrained" if self.pretrained else "from scratch"]
        parts += [f"{self.hours:g} h"] if self.hours is not None else []
        return " ".join([*parts, f"seed {self.seed}"])

    @property
    def identity(self) -> dict[str, Any]:
        """Fields of the stage that its record stores."""
        names = ("kind", "preset", "seed", "pretrained", "hours", "context", "variant", "overrides", "configs", "run")
        return {
            "key": self.key,
            **{name: getattr(self, name) for name in names},
            "needs": self.needs.key if self.needs else None,
        }


def make_plan(options: FrontierOptions) -> list[Stage]:
    """Returns all stages once, each after its dependency, ordered by seed and preset."""
    plan: dict[str, Stage] = {}
    for stage in every_stage(options):
        plan.setdefault(stage.key, stage)
    return list(plan.values())


def every_stage(options: FrontierOptions) -> Iterator[Stage]:
    """Yields the stages of each preset, then those of variants; stages with the same hash may occur more than once."""
    for seed in options.seeds:
        for preset in options.presets:
            yield from _baseline(options, preset, seed)
        for name, *overrides in options.variants:
            for preset in options.presets:
                if changed := options.for_preset(overrides, preset):
                    yield from _varied(options, preset, seed, name, changed)


def _baseline(options: FrontierOptions, preset: str, seed: int) -> Iterator[Stage]:
    overrides = pretraining_overrides(options, preset, seed)
    pretrain = Stage("pretrain", preset, seed, overrides, configs=options.digest_of(overrides))
    yield pretrain
    if options.probes:
        labels = (f"manifest={options.probe_manifest}", f"phones={options.probe_phones}", f"most={options.probe_most}")
        yield Stage("probe", preset, seed, labels, pretrain, pretrained=True)
    for hours in options.hours:
        for encoder in (pretrain, None):
            yield from _finetuning(options, preset, seed, hours, encoder)


def _varied(options: FrontierOptions, preset: str, seed: int, variant: str, changed: Sequence[str]) -> Iterator[Stage]:
    overrides = pretraining_overrides(options, preset, seed, changed)
    pretrain = Stage("pretrain", preset, seed, overrides, variant=variant, configs=options.digest_of(overrides))
    yield pretrain
    for hours in options.hours:
        yield from _finetuning(options, preset, seed, hours, pretrain)


def _finetuning(
    options: FrontierOptions, preset: str, seed: int, hours: float | None, encoder: Stage | None
) -> Iterator[Stage]:
    """Yields a fine-tuning stage and its evaluations."""
    overrides = finetuning_overrides(options, preset, seed, hours, encoder.overrides if encoder else None)
    variant, configs = encoder.variant if encoder else None, options.digest_of(overrides)
    tuned = Stage("finetune", preset, seed, overrides, encoder, encoder is not None, hours, None, variant, configs)
    yield tuned
    for context in (options.contexts or (None,)) if preset == "dynamic" else (None,):
        inputs = (f"context={context}", f"manifest={options.eval_manifest}")
        yield Stage("evaluate", preset, seed, inputs, tuned, encoder is not None, hours, context, variant)


def affects_result(setting: str) -> bool:
    """Returns whether a setting can change the result of a run."""
    return not any(setting == name or setting.startswith(f"{name}.") for name in _ASIDE)
