"""Recognition of a live stream: samples in, text out as soon as nothing later can change it."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.downstream.ctc import CTCRecognizer
from streamnest.downstream.decoding import collapse
from streamnest.downstream.text import BLANK, join
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.streaming import StreamingSession


class StreamingRecognizer:
    """One stream and its text, that of `CTCRecognizer.recognize` on the whole audio however it is cut into pieces.

    The best token of a frame is decided with the frame, so text is never taken back.

    Args:
        model: is put into evaluation mode.
        max_left_ms: the cap of an unlimited left context; longer streams see a window of their past.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: CTCRecognizer, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.session = model, StreamingSession(model, max_left_ms)
        self.text = ""
        self._stream, self._last = self.session.open(), BLANK

    def push(self, samples: Tensor) -> str:
        """Hears the next samples `(n,)` at the model's rate; returns the text that they decided, maybe none."""
        return self._decide(self.session.push({self._stream: samples})[self._stream])

    def flush(self) -> str:
        """Ends the stream; returns the rest of its text. What is heard next is a new stream."""
        rest = self._decide(self.session.flush([self._stream])[self._stream])
        self.text = ""
        self._stream, self._last = self.session.open(), BLANK
        return rest

    @torch.no_grad()
    def _decide(self, frames: Tensor) -> str:
        tokens, self._last = collapse(self.model.log_probs(frames).argmax(-1), self._last)
        new = join(self.model.tokenizer, tokens, begun=bool(self.text))
        self.text += new
        return new
