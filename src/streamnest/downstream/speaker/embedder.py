"""Speaker embedding of a live stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.speaker.pooling import Moments
from streamnest.downstream.speaker.task import SpeakerRecognizer
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.streaming.session import StreamingSession


class StreamingEmbedder:
    """The embedding of what was heard so far, at any time; at the end it is that of `SpeakerRecognizer.embed`.

    Args:
        model: is put into evaluation mode.
        max_left_ms: the cap of an unlimited left context; longer streams see a window of their past.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: SpeakerRecognizer, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.session = model, StreamingSession(model, max_left_ms)
        self._stream, self._moments = self._fresh()

    @property
    @torch.no_grad()
    def embedding(self) -> Tensor | None:
        """`(E,)` of length 1; None before the first frame."""
        return self.model.embedding(self._moments)[0] if self._moments.heard > 0 else None

    def push(self, samples: Any) -> Tensor | None:
        """Hears the next samples `(n,)` at the model's rate; returns the embedding so far."""
        with self.session.lock:
            self._add(self.session.push({self._stream: samples})[self._stream])
            return self.embedding

    def flush(self) -> Tensor | None:
        """Ends the stream; returns the embedding of all of it. What is heard next is a new stream."""
        with self.session.lock:
            self._add(self.session.flush([self._stream])[self._stream])
            found = self.embedding
            self._stream, self._moments = self._fresh()
            return found

    def _add(self, frames: Tensor) -> None:
        count = torch.tensor([len(frames)], device=frames.device)
        self._moments = self._moments + Moments.of(frames[None], count)

    def _fresh(self) -> tuple[int, Moments]:
        """A stream that has heard nothing."""
        weight = self.model.project.weight
        nothing = weight.new_zeros(1, self.model.encoder.d_model)
        return self.session.open(), Moments(weight.new_zeros(1), nothing, nothing)
