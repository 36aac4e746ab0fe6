"""Rules that decide how much latency the next chunk of a stream is worth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming.adaptive.budget import RANKED, Ranks
from streamnest.streaming.adaptive.contexts import AdaptiveContext


class Evidence(NamedTuple):
    """Observations of a stream before a chunk; NaN if there are none yet.

    Attributes:
        entropy: entropy of the posteriors of the head in nats, mean over the frames of the last chunk.
        energy_db: energy of the audio that the last chunk has consumed, in dB.
        lag_ms: audio that has arrived and has not been encoded.
    """

    entropy: float = math.nan
    energy_db: float = math.nan
    lag_ms: float = 0.0


class Rule:
    """Decides how much latency the next chunk of one stream is worth.

    Attributes:
        uses_head: True if the rule needs `Evidence.entropy`.
        previews: True if a chunk is first encoded with the smallest context, and the evidence is that of its frames.
    """

    uses_head: ClassVar[bool] = False
    previews: ClassVar[bool] = False

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Returns the average latency that the chunk is worth; `scale_ms` is that of the highest rank."""
        raise NotImplementedError

    def save(self) -> list[float]:
        """Returns the state of the rule, for `restore`; empty without any."""
        return []

    def restore(self, saved: Sequence[float]) -> None:
        """Restores a state that `save` returned.

        Raises:
            UserError: for numbers that are not a state of this rule.
        """
        _require(not saved)


def _require(condition: bool) -> None:
    if not condition:
        raise UserError("adaptive.rule of the saved stream is not a state of its rule: pass the result of save()")


class RankRule(Rule):
    """Base of the rules that rank the score of a chunk among those before it."""

    def __init__(self) -> None:
        self.ranks = Ranks()

    def save(self) -> list[float]:
        """Implements `Rule`."""
        return self.ranks.scores

    def restore(self, saved: Sequence[float]) -> None:
        """Implements `Rule`."""
        _require(len(saved) <= RANKED)
        self.ranks = Ranks(saved)


class EntropyRule(RankRule):
    """More look-ahead after a chunk with uncertain predictions."""

    uses_head = True

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Implements `Rule`."""
        return scale_ms * self.ranks.rank(evidence.entropy)


class PreviewRule(EntropyRule):
    """More look-ahead if the next frames have uncertain predictions with the smallest context.

    They are encoded with it first. If they are certain, they are emitted; otherwise the stream waits for more audio and
    encodes them again, so that a chunk costs at most one additional step of the smallest context.
    """

    previews = True


class EnergyRule(RankRule):
    """More look-ahead after loud audio, and a small one in pauses."""

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Implements `Rule`."""
        return scale_ms * self.ranks.rank(evidence.energy_db)


class LoadRule(Rule):
    """Larger chunks while audio waits: they take fewer steps, and their audio has arrived already.

    Args:
        contexts: contexts to choose from.
    """

    def __init__(self, contexts: Sequence[AdaptiveContext]) -> None:
        self.contexts = contexts

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Implements `Rule`."""
        return max((c.mean_ms for c in self.contexts if c.worst_ms <= evidence.lag_ms), default=0.0)


class RandomRule(Rule):
    """Random ranks: the control that any other rule has to surpass at the same average latency.

    Args:
        seed: seed of the ranks.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Implements `Rule`."""
        return scale_ms * self.random.random()

    def save(self) -> list[float]:
        """Implements `Rule`."""
        return [float(number) for number in self.random.getstate()[1]]

    def restore(self, saved: Sequence[float]) -> None:
        """Implements `Rule`."""
        state = [int(number) for number in saved]
        # 624 words of 32 bits, and how many of them are used up.
        _require(state == list(saved) and len(state) == 625)
        _require(min(state) >= 0 and max(state) < 1 << 32 and state[-1] <= 624)
        self.random.setstate((3, tuple(state), None))


class FixedRule(Rule):
    """One context for all chunks that can afford it.

    Args:
        context: the context.
    """

    def __init__(self, context: AdaptiveContext) -> None:
        self.context = context

    def wanted_ms(self, evidence: Evidence, scale_ms: float) -> float:
        """Implements `Rule`."""
        return self.context.mean_ms


# Rules without parameters.
_PLAIN: dict[str, Callable[[], Rule]] = {"entropy": EntropyRule, "preview": PreviewRule, "energy": EnergyRule}
RULES = (*_PLAIN, "load", "random")


def rule_maker(name: str, contexts: Sequence[AdaptiveContext], seed: int = 0) -> Callable[[int], Rule]:
    """Returns a function that makes the rule of a stream from its number.

    Args:
        name: one of `RULES`, or `fixed:NAME`.
        contexts: contexts to choose from.
        seed: seed of random rules.

    Raises:
        UserError: for other names.
    """
    if name in _PLAIN:
        return lambda number: _PLAIN[name]()
    if name == "load":
        return lambda number: LoadRule(contexts)
    if name == "random":
        return lambda number: RandomRule(1_000_003 * seed + number)
    by_name = {f"fixed:{context.name}": context for context in contexts}
    if name in by_name:
        return lambda number: FixedRule(by_name[name])
    raise UserError(f"adaptive rule {name!r} is unknown: choose one of {', '.join((*RULES, *by_name))}")


def posterior_entropy(model: EncoderTask) -> Callable[[Tensor], Tensor]:
    """Returns a function from encoder frames `(..., d)` to the entropy of the head's posteriors in nats, `(...)`.

    That of a pretrained model is the mean over its codebooks.

    Raises:
        UserError: for models without a CTC head or heads of codes.
    """
    head = model.exported_head()
    if head is not None and head.kind == "ctc":
        layer = head
        return lambda frames: _entropy(layer(frames, None, None)[0])
    if isinstance(model, Pretraining):
        objective = model.objective
        return lambda frames: _entropy(objective.logits(frames)).flatten(frames.ndim - 1).mean(-1)
    raise UserError(
        "the rules entropy and preview need a checkpoint of task=ctc or a pretrained one: choose another rule, such as "
        "energy"
    )


def _entropy(scores: Tensor) -> Tensor:
    log_probs = scores.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)
