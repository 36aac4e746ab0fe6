"""Named contexts of a dynamic encoder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamnest.encoder.context import Context
from streamnest.errors import UserError


@dataclass
class ContextChoice:
    """One of the contexts that a dynamic encoder is trained with; see `EncoderConfig`.

    Attributes:
        left_context_ms: None is unlimited.
        right_context_ms: None is unlimited.
        weight: relative probability of being sampled; 0 for a context that training does not sample.
        chunk_ms: chunk of `style=buffered`; None is the right context plus one frame.
    """

    left_context_ms: float | None = None
    right_context_ms: float | None = 0.0
    weight: float = 1.0
    chunk_ms: float | None = None


class ContextChoices:
    """Named contexts: training samples one per batch, inference selects one by name.

    Args:
        choices: `ContextChoice` or its fields, by name; empty for an encoder with one context.
        frame_ms: milliseconds per encoder frame.
        style: style of all contexts.

    Raises:
        UserError: if a choice is not a whole number of frames, or no weight is positive.
    """

    def __init__(self, choices: Mapping[str, Any], frame_ms: float, style: str) -> None:
        parsed = {k: v if isinstance(v, ContextChoice) else ContextChoice(**v) for k, v in choices.items()}
        self.by_name: dict[str, Context] = {}
        for name, choice in parsed.items():
            try:
                limits = choice.left_context_ms, choice.right_context_ms
                self.by_name[name] = Context.from_ms(*limits, frame_ms, style, choice.chunk_ms)
            except UserError as error:
                raise UserError(f"{error}; to remove this choice: '~encoder.contexts.{name}'") from None
        self.weights = [choice.weight for choice in parsed.values()]
        if negative := [name for name, choice in parsed.items() if choice.weight < 0]:
            raise UserError(
                f"encoder.contexts.{negative[0]}.weight={parsed[negative[0]].weight:g} must be at least 0: 0 never "
                "samples the context"
            )
        if parsed and not sum(self.weights):
            raise UserError("the weights of all encoder.contexts are 0: one must be above 0")

    def __getitem__(self, name: str) -> Context:
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none: only encoder=dynamic has several"
            raise UserError(f"the encoder was not trained with a context {name!r}; it has {known}")
        return self.by_name[name]

    @property
    def sampled(self) -> list[str]:
        """Names of the choices that training samples: those with a weight above 0."""
        return [name for name, weight in zip(self.by_name, self.weights, strict=True) if weight > 0]

    def sample(self, number: int) -> Context:
        """Samples a context by weight, as a function of the number."""
        return random.Random(number).choices(list(self.by_name.values()), self.weights)[0]
