"""Streaming speaker embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.speaker.pooling import Moments
from streamnest.downstream.speaker.task import SpeakerRecognizer
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.streaming.session import StreamingSession


class StreamingEmbedder:
    """Computes the embedding of a stream so far.

    At its end it equals that of `SpeakerRecognizer.embed`, if the stream was shorter than `max_left_ms` or the left
    context of the model is limited.

    Args:
        model: model, which is put into evaluation mode.
        max_left_ms: cap of an unlimited left context; in longer streams a frame sees a window of the past.

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
        return self.model.embedding(self._moments)[0] if self._moments.num_frames > 0 else None

    def push(self, samples: Any) -> Tensor | None:
        """Consumes the next samples `(n,)` at the model's rate; returns the embedding so far."""
        with self.session.lock:
            self._add(self.session.push({self._stream: samples})[self._stream])
            return self.embedding

    def flush(self) -> Tensor | None:
        """Ends the stream and returns its embedding; the next samples begin a new stream."""
        with self.session.lock:
            self._add(self.session.flush([self._stream])[self._stream])
            embedding = self.embedding
            self._stream, self._moments = self._fresh()
            return embedding

    def _add(self, frames: Tensor) -> None:
        count = torch.tensor([len(frames)], device=frames.device)
        self._moments = self._moments + Moments.of(frames[None], count)

    def _fresh(self) -> tuple[int, Moments]:
        """Opens a stream; returns its number and the moments of no frames."""
        weight = self.model.project.weight
        zeros = weight.new_zeros(1, self.model.encoder.d_model)
        return self.session.open(), Moments(weight.new_zeros(1), zeros, zeros)
