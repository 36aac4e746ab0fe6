"""Streaming recognition: samples in, final text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import join
from streamnest.downstream.exported import ExportedRecognizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS, like_state, plain_state
from streamnest.errors import UserError
from streamnest.streaming.adaptive import AdaptiveSettings


class IncrementalDecoder:
    """Decodes the frames of one stream as they arrive; the tokens of a frame are never revised.

    Args:
        model: recognizer, or an exported one.

    Attributes:
        text: text of all frames so far.
        state: state of `TextTask.decode` after them.
    """

    def __init__(self, model: TextTask | ExportedRecognizer) -> None:
        self.model, self.text, self.state = model, "", model.start(1)

    @torch.no_grad()
    def add(self, frames: Tensor) -> str:
        """Consumes the next frames `(k, d)` of the stream; returns the new text, which may be empty."""
        lengths = torch.tensor([len(frames)], device=frames.device)
        (tokens,), self.state = self.model.decode(self.model.outputs(frames[None]), lengths, self.state)
        new = join(self.model.tokenizer, tokens, begun=bool(self.text))
        self.text += new
        return new


class StreamingRecognizer:
    """Transcribes one stream; for any chunking the text equals that of `TextTask.recognize` on the whole audio.

    The tokens of a frame are emitted with the frame and never revised.

    Args:
        model: model, which is put into evaluation mode, or an exported one.
        max_left_ms: cap of an unlimited left context; in longer streams a frame sees a window of the past.
        adaptive: settings of adaptive look-ahead; None for the context of the model. The text then equals that of an
            offline forward with the same chunks.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(
        self,
        model: TextTask | ExportedRecognizer,
        max_left_ms: float = STREAM_LEFT_MS,
        adaptive: AdaptiveSettings | None = None,
    ) -> None:
        self.model, self.session = model, session_of(model, max_left_ms, adaptive)
        self._stream, self._decoder = self.session.open(), IncrementalDecoder(model)

    @property
    def text(self) -> str:
        """Text of the current stream so far."""
        return self._decoder.text

    def push(self, samples: Any) -> str:
        """Consumes the next samples `(n,)` at the model's rate; returns the new text, which may be empty."""
        with self.session.lock:
            return self._decoder.add(self.session.push({self._stream: samples})[self._stream])

    def flush(self) -> str:
        """Ends the stream and returns the rest of its text; the next samples begin a new stream."""
        with self.session.lock:
            rest = self._decoder.add(self.session.flush([self._stream])[self._stream])
            self._stream, self._decoder = self.session.open(), IncrementalDecoder(self.model)
            return rest

    def save(self) -> dict[str, Any]:
        """Returns the stream as plain containers; after `restore` it continues with the same text."""
        with self.session.lock:
            decoder = self._decoder
            return {
                "stream": self.session.save(self._stream),
                "decoder": plain_state(decoder.state),
                "text": decoder.text,
            }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Replaces the current stream by a saved one, from this process or another.

        Raises:
            UserError: for data that `save` of a recognizer with this model did not return; the current stream is kept.
        """
        with self.session.lock:
            state, text = self._decoder_of(saved), saved["text"]
            stream = self.session.restore(saved["stream"])
            self.session.drop(self._stream)
            self._stream = stream
            self._decoder.state, self._decoder.text = state, text

    def _decoder_of(self, saved: Any) -> Any:
        entries = ("stream", "decoder", "text")
        missing = [name for name in entries if name not in saved] if isinstance(saved, Mapping) else list(entries)
        if missing or not isinstance(saved["text"], str):
            raise UserError(
                f"the saved stream has no {', '.join(missing or ['text'])}: pass the unchanged result of save()"
            )
        return like_state(self.model.start(1), saved["decoder"], "decoder", self.model.tokenizer.size)
