"""Choices of a stream: what its next context depends on, and how that is saved and restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamnest.errors import UserError
from streamnest.streaming.adaptive.budget import Budget
from streamnest.streaming.adaptive.contexts import AdaptiveContext
from streamnest.streaming.adaptive.history import History
from streamnest.streaming.adaptive.rules import Evidence, Rule

# Largest difference of a saved credit from the one that its history gives, in frames times milliseconds: only rounding.
_ROUNDING = 1e-3


@dataclass(kw_only=True)
class Choices:
    """State of the choices of a stream.

    Attributes:
        budget: budget, with the credit of the stream.
        rule: rule, with the scores of the stream.
        history: contexts so far.
        evidence: observations of the last chunk.
        choice: context of the next chunk, once it is chosen.
    """

    budget: Budget
    rule: Rule
    history: History
    evidence: Evidence = field(default_factory=Evidence)
    choice: AdaptiveContext | None = None

    def choose(self, lag_ms: float) -> AdaptiveContext:
        """Chooses the context of the next chunk while `lag_ms` of audio wait."""
        wanted = self.rule.wanted_ms(self.evidence._replace(lag_ms=lag_ms), self.budget.scale_ms)
        self.choice = self.budget.choose(wanted)
        return self.choice

    def save_choices(self) -> dict[str, Any]:
        """Returns the state as plain containers, for `restore_choices`.

        The evidence is left out: between calls of a session, either the next context is chosen, or a preview follows.
        """
        return {
            "credit": self.budget.credit,
            "rule": self.rule.save(),
            "choice": self.choice and self.choice.name,
            "frames": dict(self.history.frames),
            "chunks": [context.name for context in self.history.choices],
        }

    def restore_choices(self, saved: Any, emitted: int) -> None:
        """Restores the state of a stream that has emitted `emitted` frames.

        Raises:
            UserError: for anything that `save_choices` of such a stream does not return.
        """
        contexts = {context.name: context for context in self.budget.contexts}
        if part := _invalid_part(saved, contexts):
            raise UserError(f"{part} of the saved stream is not valid: pass the unchanged result of save()")
        self.history.restore(saved["frames"], [contexts[name] for name in saved["chunks"]], emitted)
        self.rule.restore(saved["rule"])
        self.choice = contexts.get(saved["choice"])
        expected = self.budget.credit_after(saved["frames"], self.choice)
        if abs(saved["credit"] - expected) > _ROUNDING:
            raise UserError(
                f"adaptive.credit={saved['credit']:g} of the saved stream contradicts its history, which gives "
                f"{expected:g}: it was modified"
            )
        self.budget.credit = saved["credit"]


def _invalid_part(saved: Any, contexts: Mapping[str, AdaptiveContext]) -> str | None:
    """Returns the name of the first part of a saved state that has another type or a value out of range."""
    if not isinstance(saved, Mapping):
        return "adaptive"

    def is_name(x: Any) -> bool:
        return isinstance(x, str) and x in contexts

    valid: dict[str, Callable[[Any], bool]] = {
        "credit": lambda x: isinstance(x, float) and math.isfinite(x),
        "rule": lambda x: isinstance(x, list) and all(isinstance(n, float) and math.isfinite(n) for n in x),
        "choice": lambda x: x is None or is_name(x),
        "frames": lambda x: (
            isinstance(x, dict)
            and x.keys() == contexts.keys()
            and all(type(n) is int and n >= 0 and n % contexts[name].frames == 0 for name, n in x.items())
        ),
        "chunks": lambda x: isinstance(x, list) and all(map(is_name, x)),
    }
    return next(
        (f"adaptive.{name}" for name, test in valid.items() if name not in saved or not test(saved[name])), None
    )
