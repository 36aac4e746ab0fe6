"""Diarisation of a live stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.downstream.diarization.activity import LiveDecision
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.exported import ExportedDiarizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS


class Decided(NamedTuple):
    """What is known for good of the next frames of a stream.

    Attributes:
        active: `(n, S)` boolean, who speaks.
        probabilities: `(n, S)` of the same frames.
    """

    active: Tensor
    probabilities: Tensor


class StreamingDiarizer:
    """Who speaks, as it is heard: the activity of `Diarizer.diarize` on the whole audio however it is cut into pieces.

    A frame comes out when nothing later can change it: `latency_ms` after the encoder frame, for the median. Nothing
    is ever taken back, and a speaker keeps his column for the whole stream. Memory is constant.

    Args:
        model: is put into evaluation mode; or an exported one.
        max_left_ms: the cap of an unlimited left context; longer streams see a window of their past.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: Diarizer | ExportedDiarizer, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.session = model, session_of(model, max_left_ms)
        self.frame_ms, self.latency_ms = self.session.frame_ms, model.decision.future * self.session.frame_ms
        self._stream, self._live, self._waiting = self._fresh()
        self._state: Tensor | None = None

    def push(self, samples: Any) -> Decided:
        """Hears the next samples `(n,)` at the model's rate; returns the frames that they decided, maybe none."""
        with self.session.lock:
            return self._hear(self.session.push({self._stream: samples})[self._stream])

    def flush(self) -> Decided:
        """Ends the stream; returns the rest of its frames. What is heard next is a new stream, with new speakers."""
        with self.session.lock:
            rest = self._hear(self.session.flush([self._stream])[self._stream])
            active = torch.cat([rest.active, self._live.flush()])
            found = Decided(active, torch.cat([rest.probabilities, self._waiting]))
            self._stream, self._live, self._waiting = self._fresh()
            self._state = None
            return found

    @torch.no_grad()
    def _hear(self, frames: Tensor) -> Decided:
        probabilities, self._state = self.model.probabilities(frames[None], self._state)
        active = self._live.push(probabilities[0])
        waiting = torch.cat([self._waiting.to(probabilities), probabilities[0]])
        self._waiting = waiting[len(active) :]
        return Decided(active, waiting[: len(active)])

    def _fresh(self) -> tuple[int, LiveDecision, Tensor]:
        """A stream that has heard nothing, what decides, and probabilities that wait."""
        speakers = self.model.settings.max_speakers
        return self.session.open(), LiveDecision(self.model.decision, speakers), torch.zeros(0, speakers)
