"""The stages of a frontier, what each depends on, and a hash of all that decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from streamnest.frontier.options import Options, setting_of
from streamnest.frontier.overrides import pretraining_words, recognition_words

Kind = Literal["pretrain", "finetune", "evaluate", "probe"]
# Settings that change how a run is watched and loaded, not what comes out of it.
_WATCHED = (
    "logger",
    "name",
    "tags",
    "paths",
    "print_config",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
)
_ASIDE = (*_WATCHED, "data.num_workers", "data.cache_mb")


@dataclass(frozen=True)
class Stage:
    """One process: a training run, an evaluation or a probe.

    Attributes:
        kind: of stage.
        preset: of the encoder.
        seed: of the run; data, masks and initial weights follow it.
        words: overrides of train.py; of an evaluation or probe, what it is of.
        needs: the stage whose checkpoint it takes.
        pretrained: whether the encoder is; None for stages to which that does not apply.
        hours: label budget; None is all.
        context: of a dynamic checkpoint.
        variant: of pretraining, by name; None is as the options say.
        configs: digest of what config files hold for the words of a training; see `frontier/configs.py`.
    """

    kind: Kind
    preset: str
    seed: int
    words: tuple[str, ...]
    needs: Stage | None = None
    pretrained: bool | None = None
    hours: float | None = None
    context: str | None = None
    variant: str | None = None
    configs: str = ""

    @cached_property
    def key(self) -> str:
        """A hash of overrides and configs and, through what it needs, of all that came before."""
        deciding = sorted(word for word in self.words if decides(setting_of(word)))
        before = self.needs.key if self.needs else None
        held = [self.configs] if self.configs else []
        return hashlib.sha256(json.dumps([self.kind, deciding, before, *held]).encode()).hexdigest()[:12]

    @property
    def run(self) -> str:
        """Name of its folder."""
        return f"{self.kind}_{self.preset}_{self.key}"

    @property
    def title(self) -> str:
        """For people."""
        parts = [self.kind, self.preset]
        parts += [f"variant {self.variant}"] if self.variant else []
        parts += [f"in context {self.context}"] if self.context else []
        parts += [] if self.pretrained is None else ["pretrained" if self.pretrained else "from scratch"]
        parts += [f"{self.hours:g} h"] if self.hours is not None else []
        return " ".join([*parts, f"seed {self.seed}"])

    @property
    def identity(self) -> dict[str, Any]:
        """What a record says about it."""
        names = ("kind", "preset", "seed", "pretrained", "hours", "context", "variant", "words", "configs", "run")
        return {
            "key": self.key,
            **{name: getattr(self, name) for name in names},
            "needs": self.needs.key if self.needs else None,
        }


def make_plan(options: Options) -> list[Stage]:
    """All stages, each once and after what it needs; a seed is a whole frontier, and presets come one after another."""
    plan: dict[str, Stage] = {}
    for stage in every_stage(options):
        plan.setdefault(stage.key, stage)
    return list(plan.values())


def every_stage(options: Options) -> Iterator[Stage]:
    """The stages of each preset, then those of its variants; one that differs from another in its name alone too."""
    for seed in options.seeds:
        for preset in options.presets:
            yield from _of(options, preset, seed)
        for name, *words in options.variants:
            for preset in options.presets:
                if changed := options.for_preset(words, preset):
                    yield from _varied(options, preset, seed, name, changed)


def _of(options: Options, preset: str, seed: int) -> Iterator[Stage]:
    words = pretraining_words(options, preset, seed)
    pretrain = Stage("pretrain", preset, seed, words, configs=options.digest_of(words))
    yield pretrain
    if options.probes:
        labels = (f"manifest={options.probe_manifest}", f"phones={options.probe_phones}", f"most={options.probe_most}")
        yield Stage("probe", preset, seed, labels, pretrain, pretrained=True)
    for hours in options.hours:
        for encoder in (pretrain, None):
            yield from _recognition(options, preset, seed, hours, encoder)


def _varied(options: Options, preset: str, seed: int, variant: str, changed: Sequence[str]) -> Iterator[Stage]:
    words = pretraining_words(options, preset, seed, changed)
    pretrain = Stage("pretrain", preset, seed, words, variant=variant, configs=options.digest_of(words))
    yield pretrain
    for hours in options.hours:
        yield from _recognition(options, preset, seed, hours, pretrain)


def _recognition(
    options: Options, preset: str, seed: int, hours: float | None, encoder: Stage | None
) -> Iterator[Stage]:
    """A fine-tune and its evaluations."""
    words = recognition_words(options, preset, seed, hours, encoder.words if encoder else None)
    variant, configs = encoder.variant if encoder else None, options.digest_of(words)
    tuned = Stage("finetune", preset, seed, words, encoder, encoder is not None, hours, None, variant, configs)
    yield tuned
    for context in (options.contexts or (None,)) if preset == "dynamic" else (None,):
        asked = (f"context={context}", f"manifest={options.eval_manifest}")
        yield Stage("evaluate", preset, seed, asked, tuned, encoder is not None, hours, context, variant)


def decides(setting: str) -> bool:
    """Whether a setting changes what comes out of a run."""
    return not any(setting == name or setting.startswith(f"{name}.") for name in _ASIDE)
