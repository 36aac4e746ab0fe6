"""Contexts that change from chunk to chunk: one chunk of a stream, and the chunks of whole utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from streamnest.encoder.context import Context
from streamnest.errors import UserError

if TYPE_CHECKING:
    from streamnest.encoder.encoder import FastConformer


@dataclass(frozen=True)
class Chunk(Context):
    """Context of a streaming step of one chunk, which may begin at any frame.

    The `right + 1` frames of the chunk see each other and `left` frames before the first. `Context` divides a stream
    into chunks of one length; here the stream is divided as it arrives.
    """

    def __post_init__(self) -> None:
        if self.left is None or self.right is None or self.style != "chunked":
            raise UserError(
                "a chunk of a schedule needs a limited left context, a limited right context and encoder.style=chunked"
            )

    @classmethod
    def of(cls, frames: int, left: int) -> Chunk:
        """Returns a chunk of `frames` frames that sees `left` frames before it."""
        return cls(left, frames - 1)

    @property
    def frames(self) -> int:
        """Number of encoder frames of the chunk."""
        return (self.right or 0) + 1

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Computes which keys each query sees if the queries are one chunk and no key is later than the last query."""
        first = queries[..., :1] - (self.left or 0)
        return (keys >= first).unsqueeze(-2).expand(*queries.shape, keys.shape[-1])


@dataclass(frozen=True)
class Schedule(Context):
    """Chunks of whole utterances of a batch, for `FastConformer.forward`: the offline counterpart of streamed chunks.

    Attributes:
        rows: consecutive chunks of each utterance; frames after the last chunk see nothing.
    """

    rows: tuple[tuple[Chunk, ...], ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Sequence[Chunk]]) -> Schedule:
        """Returns the schedule of a batch, with a sequence of chunks for each row."""
        return cls(rows=tuple(tuple(row) for row in rows))

    @property
    def unlimited(self) -> bool:
        """False: no frame sees past its chunk."""
        return False

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Computes which keys each query sees: frame numbers `(1, Tq)` and `(1, Tk)` to `(B, Tq, Tk)`."""
        first, end = self._bounds(int(queries.max()) + 1, queries.device)
        first, end = first[:, queries[0], None], end[:, queries[0], None]
        return (keys[:, None] >= first) & (keys[:, None] < end)

    def _bounds(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Computes the first visible key of each frame, and the end of its chunk: `(B, frames)` each."""
        first, end = (torch.zeros(len(self.rows), frames, dtype=torch.long) for _ in range(2))
        for row, chunks in enumerate(self.rows):
            start = 0
            for chunk in chunks:
                after = start + chunk.frames
                first[row, start:after], end[row, start:after] = start - (chunk.left or 0), after
                start = after
        return first.to(device), end.to(device)


@contextmanager
def using_context(encoder: FastConformer, context: Context) -> Iterator[None]:
    """Switches an encoder to a context until the block ends."""
    before, encoder.context = encoder.context, context
    try:
        yield
    finally:
        encoder.context = before
