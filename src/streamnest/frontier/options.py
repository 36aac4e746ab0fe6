"""What a frontier is made of, as the command line says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from streamnest.errors import UserError

# A setting of train.py and the option of this command that decides it.
_OWN = {
    "task": "this command chooses the tasks",
    "encoder": "see --presets",
    "encoder_from": "this command fills it in",
    "init_from": "this command begins every run anew",
    "ckpt_path": "runs continue by themselves",
    "run_id": "this command names the runs",
    "seed": "see --seeds",
    "threads": "see --threads",
    "trainer.max_steps": "see --pretrain_steps and --finetune_steps",
    "data.max_hours": "see --hours",
}


@dataclass(frozen=True)
class Options:
    """Everything that decides what is run and what comes out; no machine is named here.

    Attributes:
        presets: of the encoder.
        contexts: in which a dynamic checkpoint is evaluated.
        seeds: each of them is a whole frontier; they are pooled.
        pretrain_steps: updates.
        finetune_steps: updates.
        hours: label budgets; None is all there is.
        both: overrides of every run. Of those for one setting the last one holds, in the order of these fields.
        pretrain: overrides of pretraining.
        finetune: overrides of every fine-tune.
        pretrained: overrides of fine-tunes of a pretrained encoder.
        scratch: overrides of fine-tunes from scratch.
        variants: of pretraining: the name of each and its overrides, the last of all. Recognition is trained alike, on
            the encoder as it was pretrained. Presets for which one has no overrides are not in it.
        eval_manifest: what is recognised; None is the validation set of the fine-tune.
        probes: whether pretrained encoders are probed layer by layer.
        probe_manifest: see `streamnest probe`; None is the built-in corpus.
        probe_phones: see there.
        probe_most: utterances that a probe takes, with phones and as many without.
        configs: digests of what config files hold, by the overrides that choose among them; see `with_configs`.

    Raises:
        UserError: for overrides that this command decides itself, and values that make no sense.
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
    overrides: ClassVar[tuple[str, ...]] = ("both", "pretrain", "finetune", "pretrained", "scratch")

    def __post_init__(self) -> None:
        for name in self.overrides:
            for word in getattr(self, name):
                self._check(name, word)
        for name, *words in self.variants:
            if not words or "=" in name:
                raise UserError(f"--variant {name}: give a name, then overrides, as in --variant small size=small")
            for word in words:
                self._check("variant", word)
        if len({name for name, *_ in self.variants}) < len(self.variants):
            raise UserError("--variant: two of them have one name")
        if min(self.pretrain_steps, self.finetune_steps) < 1:
            raise UserError("--pretrain_steps and --finetune_steps are 1 or more")
        if any(hours is not None and hours <= 0 for hours in self.hours):
            raise UserError("--hours are above 0, or all")

    def _check(self, name: str, word: str) -> None:
        setting = self.split(word)[1]
        if "=" not in setting and not setting.startswith("~"):
            raise UserError(f"--{name} {word}: give overrides of train.py, as in --{name} size=small")
        head, colon, _ = setting_of(setting).partition(":")
        if colon and "@" not in head:  # Hydra has colons in names of packages alone
            raise UserError(f"--{name} {word}: {head} is none of --presets {' '.join(self.presets)}")
        if setting_of(setting) in _OWN:
            raise UserError(f"--{name} {word}: not here: {_OWN[setting_of(setting)]}")

    def split(self, word: str) -> tuple[str | None, str]:
        """The preset that an override is for, None where it is for all, and the override: `causal:size=small`."""
        head, colon, rest = word.partition(":")
        return (head, rest) if colon and head in self.presets else (None, word)

    def for_preset(self, words: Sequence[str], preset: str) -> list[str]:
        """Of these overrides those for a preset, without its name: first what is for all, then what is for it alone."""
        split = [self.split(word) for word in words]
        return [word for of, word in split if of is None] + [word for of, word in split if of == preset]

    def digest_of(self, words: Sequence[str]) -> str:
        """Of what config files hold for a training with these overrides; empty where that was not read."""
        choices = {word for chosen, _ in self.configs for word in chosen}
        return dict(self.configs).get(tuple(sorted(choices.intersection(words))), "")

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Options:
        """The opposite of `plain`."""
        return cls(**{key: _frozen(value) for key, value in plain.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def setting_of(word: str) -> str:
    """What an override is about: `+a.b=c`, `~a.b` and `a.b=d` are about `a.b`."""
    return word.lstrip("+~").split("=")[0]


def merge(words: Sequence[str]) -> tuple[str, ...]:
    """Overrides of which each setting has one, the last, at the place of the first: Hydra refuses a group twice."""
    return tuple({setting_of(word): word for word in words}.values())
