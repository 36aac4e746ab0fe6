"""Streaming diarization."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.downstream.diarization.activity import LiveDecision
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.exported import ExportedDiarizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS


class Decided(NamedTuple):
    """Final decisions for the next frames of a stream.

    Attributes:
        active: `(n, S)` boolean, speaker activity.
        probabilities: `(n, S)` probabilities of the same frames.
    """

    active: Tensor
    probabilities: Tensor


class StreamingDiarizer:
    """Diarizes one stream; for any chunking the activity equals that of `Diarizer.diarize` on the whole audio.

    A frame is returned when its decision is final, `latency_ms` after the encoder frame because of the median filter.
    Decisions are never revised, and each speaker keeps one speaker column for the whole stream. Memory is constant.

    Args:
        model: model, which is put into evaluation mode, or an exported one.
        max_left_ms: cap of an unlimited left context; in longer streams a frame sees a window of the past.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: Diarizer | ExportedDiarizer, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.session = model, session_of(model, max_left_ms)
        self.frame_ms, self.latency_ms = self.session.frame_ms, model.decision.future * self.session.frame_ms
        self._stream, self._live, self._waiting = self._fresh()
        self._state: Tensor | None = None

    def push(self, samples: Any) -> Decided:
        """Consumes the next samples `(n,)` at the model's rate; returns the frames that are final now, if any."""
        with self.session.lock:
            return self._decide(self.session.push({self._stream: samples})[self._stream])

    def flush(self) -> Decided:
        """Ends the stream and returns the rest of its frames; the next samples begin a new stream with new speakers."""
        with self.session.lock:
            rest = self._decide(self.session.flush([self._stream])[self._stream])
            active = torch.cat([rest.active, self._live.flush()])
            decided = Decided(active, torch.cat([rest.probabilities, self._waiting]))
            self._stream, self._live, self._waiting = self._fresh()
            self._state = None
            return decided

    @torch.no_grad()
    def _decide(self, frames: Tensor) -> Decided:
        probabilities, self._state = self.model.probabilities(frames[None], self._state)
        active = self._live.push(probabilities[0])
        waiting = torch.cat([self._waiting.to(probabilities), probabilities[0]])
        self._waiting = waiting[len(active) :]
        return Decided(active, waiting[: len(active)])

    def _fresh(self) -> tuple[int, LiveDecision, Tensor]:
        """Opens a stream; returns its number, the decision, and the probabilities of undecided frames."""
        speakers = self.model.settings.max_speakers
        return self.session.open(), LiveDecision(self.model.decision, speakers), torch.zeros(0, speakers)
