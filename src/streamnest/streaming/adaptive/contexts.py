"""Contexts of a dynamic encoder that a stream may choose between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamnest.encoder.context import Context
from streamnest.encoder.schedule import Chunk, using_context
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError


@dataclass(frozen=True)
class AdaptiveContext:
    """A context that a chunk may have.

    Attributes:
        name: name in `encoder.contexts`.
        chunk: its chunk, with the cap of an unlimited left context.
        mean_ms: algorithmic latency, mean over samples.
        worst_ms: algorithmic latency, worst sample.
        capped: True if its left context is unlimited in training and capped in a stream.
    """

    name: str
    chunk: Chunk
    mean_ms: float
    worst_ms: float
    capped: bool

    @property
    def frames(self) -> int:
        """Encoder frames of its chunk."""
        return self.chunk.frames


def adaptive_contexts(
    model: EncoderTask, names: Sequence[str] | None = None, max_left_ms: float = STREAM_LEFT_MS
) -> list[AdaptiveContext]:
    """Returns the contexts that a stream may choose between, from the smallest to the largest look-ahead.

    These are the contexts of limited look-ahead; of several with the same chunk, that with the longest left context.

    Args:
        model: model with a dynamic encoder.
        names: contexts to choose from; None for all.
        max_left_ms: cap of an unlimited left context, rounded down to whole chunks of the largest context.

    Raises:
        UserError: if fewer than two contexts remain, for unknown names, and for contexts without limited look-ahead.
    """
    encoder = model.encoder
    chosen = {name: encoder.choices[name] for name in names or encoder.choices.by_name}
    limited = {k: c for k, c in chosen.items() if c.style == "chunked" and c.right is not None}
    if unsuitable := [name for name in names or () if name not in limited]:
        raise UserError(
            f"context {unsuitable[0]} cannot be chosen per chunk: it needs encoder.style=chunked and a limited "
            "right_context_ms"
        )
    by_chunk: dict[int, str] = {}
    for name, context in limited.items():
        other = by_chunk.setdefault(context.chunk or 1, name)
        if _left(context.left) > _left(limited[other].left):
            by_chunk[context.chunk or 1] = name
    if len(by_chunk) < 2:
        raise UserError(
            "adaptive look-ahead needs a checkpoint of encoder=dynamic with style=chunked and two or more contexts of "
            f"different limited right_context_ms, and there are {len(by_chunk)}: choose a fixed context"
        )
    largest = limited[by_chunk[max(by_chunk)]]
    with using_context(encoder, Context(None, largest.right)):
        cap = encoder.left_frames(max_left_ms)
    found = []
    for frames in sorted(by_chunk):
        name = by_chunk[frames]
        with using_context(encoder, limited[name]):
            latency = model.latency
        left = limited[name].left
        chunk = Chunk.of(frames, cap if left is None else left)
        found.append(AdaptiveContext(name, chunk, latency.latency_mean_ms, latency.latency_worst_ms, left is None))
    return found


def _left(frames: int | None) -> float:
    return math.inf if frames is None else frames
