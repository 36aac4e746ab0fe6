"""How much past and future attention may see: milliseconds to encoder frames, and the masks that follow.

Attention works on encoder frames. A context given in 10 ms feature frames would silently mean 4 or 8 times as much, so
configs speak milliseconds and a value that is no whole number of frames is refused (DESIGN: presets).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError

STYLES = ("chunked", "regular", "delayed")


@dataclass(frozen=True)
class Context:
    """Attention context in encoder frames; `None` is unlimited.

    `chunked`: frames come in chunks of `right + 1`; a frame sees to the end of its own chunk and `left` frames (whole
    chunks) before that chunk. The look-ahead does not grow with depth.
    `regular`: frame i sees `[i - left, i + right]` in each layer, so the look-ahead grows by `right` a layer.
    `delayed`: no frame sees a later one, and the output for frame i is read `right` frames later. The same look-ahead
    for every frame, without the wait for a chunk.

    Attributes:
        left: frames of past before the chunk (chunked) or before the frame (regular, delayed).
        right: frames of future, at most.
        style: "chunked", "regular" or "delayed".
    """

    left: int | None = None
    right: int | None = None
    style: str = "chunked"

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(f"encoder.style={self.style!r} is unknown: choose one of {', '.join(STYLES)}")
        if self.style == "delayed" and self.right is None:
            raise UserError("encoder.style=delayed needs encoder.right_context_ms: the milliseconds of the delay")
        if self.left is not None and self.chunk is not None and self.left % self.chunk:
            low = self.left // self.chunk * self.chunk
            raise UserError(
                f"a left context of {self.left} encoder frames is no whole number of chunks of {self.chunk} frames: "
                f"the nearest are {low} and {low + self.chunk} frames"
            )

    @property
    def chunk(self) -> int | None:
        """Encoder frames that become available together; None is the whole utterance."""
        if self.right is None:
            return None
        return self.right + 1 if self.style == "chunked" else 1

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
        """Whether every frame sees every other one."""
        return self.left is None and self.right is None

    @staticmethod
    def from_ms(left_ms: float | None, right_ms: float | None, frame_ms: float, style: str = "chunked") -> Context:
        """Resolves milliseconds; raises `UserError` naming the nearest legal values when they do not fit."""
        left = _whole_frames("left_context_ms", left_ms, frame_ms)
        right = _whole_frames("right_context_ms", right_ms, frame_ms)
        return Context(left, right, style)

    def last_visible(self, frame: int) -> int | None:
        """The latest frame that `frame` sees through one attention layer; None is the end of the utterance."""
        if self.right is None:
            return None
        if self.style != "chunked":
            return frame + self.lag
        return (frame // (self.right + 1) + 1) * (self.right + 1) - 1

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Which keys each query may see.

        Args:
            queries: absolute frame numbers `(..., Tq)`.
            keys: absolute frame numbers `(..., Tk)`.

        Returns:
            Boolean `(..., Tq, Tk)`.
        """
        if self.style == "chunked" and self.right is not None:
            unit = self.right + 1
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
        return mask


@dataclass
class ContextChoice:
    """One of the contexts that a dynamic encoder is trained with; see `EncoderConfig`.

    Attributes:
        left_context_ms: None is unlimited.
        right_context_ms: None is unlimited.
        weight: how often it is drawn, relative to the others.
    """

    left_context_ms: float | None = None
    right_context_ms: float | None = 0.0
    weight: float = 1.0


class ContextChoices:
    """Named contexts, of which training draws one per batch and inference takes one by name.

    Args:
        choices: `ContextChoice`, or its fields, by name; empty for an encoder with one context.
        frame_ms: of the encoder.
        style: of all of them.

    Raises:
        UserError: naming the choice that is no whole number of frames, or weights of which none is positive.
    """

    def __init__(self, choices: Mapping[str, Any], frame_ms: float, style: str) -> None:
        parsed = {k: v if isinstance(v, ContextChoice) else ContextChoice(**v) for k, v in choices.items()}
        self.by_name: dict[str, Context] = {}
        for name, choice in parsed.items():
            try:
                self.by_name[name] = Context.from_ms(choice.left_context_ms, choice.right_context_ms, frame_ms, style)
            except UserError as error:
                raise UserError(f"{error}; to go without this choice: '~encoder.contexts.{name}'") from None
        self.weights = [choice.weight for choice in parsed.values()]
        if parsed and (min(self.weights) < 0 or not sum(self.weights)):
            raise UserError("encoder.contexts: weights must not be negative, and one must be positive")

    def __getitem__(self, name: str) -> Context:
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none: only encoder=dynamic has several"
            raise UserError(f"the encoder was not trained with a context {name!r}; it has {known}")
        return self.by_name[name]

    def sample(self, number: int) -> Context:
        """A context by weight; the same for the same number."""
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
            f"encoder.{name}={milliseconds:g} ms is no whole number of encoder frames of {frame_ms:g} ms: "
            f"the nearest legal values are {low:g} and {low + frame_ms:g} ms "
            f"(or change encoder.subsampling_factor)"
        )
    return round(frames)
