"""Options of a frontier: everything that determines its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from streamnest.errors import UserError

# Settings that this command sets itself, and the option to use instead.
_OWN = {
    "task": "this command sets the task of each stage",
    "encoder": "use --presets",
    "encoder_from": "this command sets it",
    "init_from": "every run of this command has new weights",
    "ckpt_path": "runs resume automatically",
    "run_id": "this command names the runs",
    "seed": "use --seeds",
    "threads": "use --threads",
    "trainer.max_steps": "use --pretrain-steps and --finetune-steps",
    "trainer.max_audio_hours": "use --pretrain-hours and --finetune-hours",
    "data.max_hours": "use --hours",
}


@dataclass(frozen=True)
class FrontierOptions:
    """Options that determine the stages and their results, independent of the machine.

    Attributes:
        presets: encoder presets.
        contexts: latency contexts in which a dynamic checkpoint is evaluated.
        seeds: seeds, pooled in the results; each is a whole frontier.
        pretrain_steps: updates of pretraining.
        finetune_steps: updates of CTC fine-tuning.
        pretrain_hours: hours of audio that pretraining consumes, in place of its updates; None counts updates.
        finetune_hours: the same for fine-tuning.
        hours: label budgets; None is all labels.
        both: overrides of every run. If several set the same key, the last in the order of these fields applies.
        pretrain: overrides of pretraining.
        finetune: overrides of all fine-tuning.
        pretrained: overrides of fine-tuning from a pretrained encoder.
        scratch: overrides of fine-tuning from scratch.
        variants: name and overrides of each variant of pretraining, applied after all others. Fine-tuning does not
            change otherwise. A variant without overrides for a preset is not run for it.
        eval_manifest: cuts to recognize; None is the validation set of the fine-tuning.
        probes: True to probe pretrained encoders layer by layer.
        probe_manifest: utterances for probes; None is the built-in corpus.
        probe_phones: phone alignments for probes.
        probe_most: utterances with phones for a probe, and as many without.
        configs: digests of config files, by the overrides that choose among them; see `with_configs`.

    Raises:
        UserError: for overrides of settings that this command sets itself, and for values out of range.
    """

    presets: tuple[str, ...] = ("causal", "lookahead80")
    contexts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    pretrain_steps: int = 150
    finetune_steps: int = 150
    hours: tuple[float | None, ...] = (None,)
    both: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    variants: tuple[tuple[str, ...], ...] = ()
    eval_manifest: str | None = None
    probes: bool = False
    probe_manifest: str | None = None
    probe_phones: str | None = None
    probe_most: int = 300
    configs: tuple[tuple[tuple[str, ...], str], ...] = ()
    pretrain_hours: float | None = None
    finetune_hours: float | None = None
    override_options: ClassVar[tuple[str, ...]] = ("both", "pretrain", "finetune", "pretrained", "scratch")

    def __post_init__(self) -> None:
        for name in self.override_options:
            for override in getattr(self, name):
                self._check(name, override)
        for name, *overrides in self.variants:
            if not overrides or "=" in name:
                raise UserError(f"--variant {name}: give a name, then overrides, as in --variant small size=small")
            for override in overrides:
                self._check("variant", override)
        if len({name for name, *_ in self.variants}) < len(self.variants):
            raise UserError("--variant: two variants have the same name; give each its own")
        if min(self.pretrain_steps, self.finetune_steps) < 1:
            raise UserError("--pretrain-steps and --finetune-steps must be 1 or more")
        for option, hours in (("--pretrain-hours", self.pretrain_hours), ("--finetune-hours", self.finetune_hours)):
            if hours is not None and not 0 < hours < math.inf:
                raise UserError(f"{option} {hours:g} is out of range: give a number above 0")
        if any(hours is not None and hours <= 0 for hours in self.hours):
            raise UserError("--hours must be above 0, or all")

    def _check(self, name: str, override: str) -> None:
        setting = self.split(override)[1]
        if "=" not in setting and not setting.startswith("~"):
            raise UserError(f"--{name} {override}: give overrides of `streamnest train`, as in --{name} size=small")
        head, colon, _ = setting_of(setting).partition(":")
        if colon and "@" not in head:  # in Hydra overrides only package names have colons
            raise UserError(f"--{name} {override}: {head} is not among --presets {' '.join(self.presets)}")
        if setting_of(setting) in _OWN:
            raise UserError(f"--{name} {override}: cannot be overridden; {_OWN[setting_of(setting)]}")

    @property
    def pretrain_length(self) -> str:
        """Override that sets the length of pretraining."""
        return _length(self.pretrain_steps, self.pretrain_hours)

    @property
    def finetune_length(self) -> str:
        """Override that sets the length of fine-tuning."""
        return _length(self.finetune_steps, self.finetune_hours)

    def split(self, override: str) -> tuple[str | None, str]:
        """Splits `causal:size=small` into preset and override; the preset is None if the override applies to all."""
        head, colon, rest = override.partition(":")
        return (head, rest) if colon and head in self.presets else (None, override)

    def for_preset(self, overrides: Sequence[str], preset: str) -> list[str]:
        """Returns the overrides that apply to a preset: first those for all presets, then those for this one."""
        split = [self.split(override) for override in overrides]
        return [override for of, override in split if of is None] + [override for of, override in split if of == preset]

    def digest_of(self, overrides: Sequence[str]) -> str:
        """Returns the digest of the config files of a training with these overrides; empty if files were not read."""
        choices = {override for chosen, _ in self.configs for override in chosen}
        return dict(self.configs).get(tuple(sorted(choices.intersection(overrides))), "")

    def plain(self) -> dict[str, Any]:
        """Returns the options as plain values for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> FrontierOptions:
        """Makes options of the values that `plain` returned."""
        return cls(**{key: _frozen(value) for key, value in plain.items()})


def _length(steps: int, hours: float | None) -> str:
    return f"trainer.max_steps={steps}" if hours is None else f"trainer.max_audio_hours={hours:g}"


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def setting_of(override: str) -> str:
    """Returns the key of an override: `+a.b=c`, `~a.b` and `a.b=d` all set `a.b`."""
    return override.lstrip("+~").split("=")[0]


def merge(overrides: Sequence[str]) -> tuple[str, ...]:
    """Keeps the last override of each key, at the position of the first: Hydra rejects a group that is set twice."""
    return tuple({setting_of(override): override for override in overrides}.values())
