"""Queue and progress of one stream of an engine, and the results of its steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.serving.results import Decoder, Fields
from streamnest.streaming.session_base import Session


class BusyError(UserError):
    """The server has as many streams as it may have, or no time for another one."""


@dataclass(frozen=True)
class Result:
    """Result of a step for one stream.

    Attributes:
        stream: number of the stream.
        kind: `partial` for new results; `final` for the whole result of a stream that has ended; `error`.
        fields: fields of the result by the kind of the model, such as `text`; `message` of an error.
        seconds: audio of the stream that has been consumed.
        frames: encoder frames that were computed from it.
        delay_ms: time from the arrival of the last of these samples to the result.
    """

    stream: int
    kind: Literal["partial", "final", "error"]
    fields: Fields
    seconds: float
    frames: int
    delay_ms: float = 0.0


@dataclass
class Stream:
    """Queue and progress of a stream.

    Attributes:
        session: session of its context.
        decoder: decoder of its results.
        row: number in the session; None before the first step.
        queue: samples that wait, with the time of their arrival.
        queued: number of samples in the queue.
        consumed: number of samples that were taken from the queue.
        frames: encoder frames computed so far.
        reported: samples that had been consumed at the last result.
        arrival: time of arrival of the last consumed piece.
        ended: True if no samples follow.
        closed: True if the stream is discarded.
        kept: True while no client is connected to it.
    """

    session: Session[Any]
    decoder: Decoder
    row: int | None = None
    queue: deque[tuple[Tensor, float]] = field(default_factory=deque)
    queued: int = 0
    consumed: int = 0
    frames: int = 0
    reported: int = 0
    arrival: float = 0.0
    ended: bool = False
    closed: bool = False
    kept: bool = False

    @property
    def counts(self) -> bool:
        """True if the stream counts as open."""
        return not (self.kept or self.closed)

    def take(self, most: int) -> Tensor:
        """Removes up to `most` samples from the queue."""
        taken, missing = [torch.zeros(0)], most
        while self.queue and missing > 0:
            piece, self.arrival = self.queue.popleft()
            if len(piece) > missing:
                self.queue.appendleft((piece[missing:], self.arrival))
            taken.append(piece[:missing])
            missing -= len(taken[-1])
        self.queued -= most - missing
        self.consumed += most - missing
        return torch.cat(taken)
