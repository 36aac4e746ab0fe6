"""Attention context: conversion from milliseconds to encoder frames, and attention masks.

Attention works on encoder frames, of 4 or 8 feature frames each. To avoid confusing the two, configs use milliseconds,
and a value that is not a whole number of encoder frames is an error.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError

STYLES = ("chunked", "regular", "delayed", "buffered")


@dataclass(frozen=True)
class Context:
    """Attention context in encoder frames; `None` is unlimited.

    `chunked`: frames form chunks of `right + 1`; a frame sees its own chunk and `left` frames (whole chunks) before it.
    The look-ahead does not grow with depth.
    `regular`: frame i sees `[i - left, i + right]` in each layer, so the look-ahead grows by `right` per layer.
    `delayed`: no frame sees a later one, and the output for frame i is read `right` frames later. All frames have the
    same look-ahead and do not wait for a chunk.
    `buffered`: frames form chunks of `size`; a frame sees its own chunk, `left` frames before it, and copies of the
    `right` frames after it, which are encoded again with their own chunk. The look-ahead does not grow with depth.

    Attributes:
        left: frames of past before the chunk (chunked, buffered) or before the frame (regular, delayed).
        right: largest number of future frames; with `buffered`, frames after the chunk.
        style: "chunked", "regular", "delayed" or "buffered".
        size: frames of a chunk (buffered); None is `right + 1`.
    """

    left: int | None = None
    right: int | None = None
    style: str = "chunked"
    # Not in the text that identifies the contexts of other styles in saved streams.
    size: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(f"encoder.style={self.style!r} is unknown: choose one of {', '.join(STYLES)}")
        if self.style == "delayed" and self.right is None:
            raise UserError("encoder.style=delayed needs encoder.right_context_ms: the milliseconds of the delay")
        if self.size is not None and self.style != "buffered":
            raise UserError(
                f"encoder.chunk_ms is for encoder.style=buffered, and encoder.style={self.style} has no such setting: "
                "remove it, or choose encoder.style=buffered"
            )
        if self.size is not None and self.size < 1:
            raise UserError(
                "encoder.chunk_ms must be at least one encoder frame, or null for the right context plus one"
            )
        if self.left is not None and self.chunk is not None and self.left % self.chunk:
            low = self.left // self.chunk * self.chunk
            raise UserError(
                f"a left context of {self.left} encoder frames is not a whole number of chunks of {self.chunk} frames: "
                f"the nearest are {low} and {low + self.chunk} frames"
            )

    @property
    def chunk(self) -> int | None:
        """Encoder frames that become available together; None is the whole utterance."""
        if self.right is None:
            return None
        if self.style == "buffered":
            return self.size or self.right + 1
        return self.right + 1 if self.style == "chunked" else 1

    @property
    def ahead(self) -> int:
        """Frames after each chunk that are encoded again with the next one (buffered)."""
        return self.right or 0 if self.style == "buffered" else 0

    @property
    def delay(self) -> int:
        """Frames by which outputs are read late (delayed)."""
        return self.right or 0 if self.style == "delayed" else 0

    @property
    def lag(self) -> int:
        """Frames of future that each layer waits for beyond its chunk (regular)."""
        return self.right or 0 if self.style == "regular" else 0

    @property
    def unlimited(self) -> bool:
        """True if each frame sees all frames."""
        return self.left is None and self.right is None

    @staticmethod
    def from_ms(
        left_ms: float | None,
        right_ms: float | None,
        frame_ms: float,
        style: str = "chunked",
        chunk_ms: float | None = None,
    ) -> Context:
        """Converts milliseconds to frames; raises `UserError` with the nearest legal values if they do not match."""
        left = _whole_frames("left_context_ms", left_ms, frame_ms)
        right = _whole_frames("right_context_ms", right_ms, frame_ms)
        return Context(left, right, style, _whole_frames("chunk_ms", chunk_ms, frame_ms))

    def last_visible(self, frame: int) -> int | None:
        """Returns the last frame that `frame` sees through one attention layer; None is the end of the utterance."""
        if self.chunk is None:
            return None
        return (frame // self.chunk + 1) * self.chunk - 1 + self.lag + self.ahead

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Computes which keys each query sees.

        Args:
            queries: absolute frame numbers `(..., Tq)`.
            keys: absolute frame numbers `(..., Tk)`.

        Returns:
            Boolean `(..., Tq, Tk)`.
        """
        unit = self.chunk
        if self.style in ("chunked", "buffered") and unit is not None:
            distance = (queries // unit).unsqueeze(-1) - (keys // unit).unsqueeze(-2)
            left, right = (None if self.left is None else self.left // unit), 0
        else:
            distance = queries.unsqueeze(-1) - keys.unsqueeze(-2)
            left, right = self.left, None if self.right is None else self.lag  # type: ignore[assignment]
        mask = torch.ones_like(distance, dtype=torch.bool)
        if right is not None:
            mask &= distance >= -right
        if left is not None:
            mask &= distance <= left
        if self.ahead and unit is not None:
            after = keys.unsqueeze(-2) - ((queries // unit + 1) * unit).unsqueeze(-1)
            mask |= (after >= 0) & (after < self.ahead)
        return mask


@dataclass
class ContextChoice:
    """One of the contexts that a dynamic encoder is trained with; see `EncoderConfig`.

    Attributes:
        left_context_ms: None is unlimited.
        right_context_ms: None is unlimited.
        weight: relative probability of being sampled.
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

    def sample(self, number: int) -> Context:
        """Samples a context by weight, as a function of the number."""
        return random.Random(number).choices(list(self.by_name.values()), self.weights)[0]


def _whole_frames(name: str, milliseconds: float | None, frame_ms: float) -> int | None:
    if milliseconds is None:
        return None
    if milliseconds < 0:
        raise UserError(f"encoder.{name}={milliseconds:g} is negative: give milliseconds from 0, or null for unlimited")
    frames = milliseconds / frame_ms
    if abs(frames - round(frames)) > 1e-6:
        low = int(frames) * frame_ms
        raise UserError(
            f"encoder.{name}={milliseconds:g} ms is not a whole number of encoder frames of {frame_ms:g} ms: "
            f"the nearest legal values are {low:g} and {low + frame_ms:g} ms "
            f"(or change encoder.subsampling_factor)"
        )
    return round(frames)
