"""Recognition of a live stream: samples in, text out as soon as nothing later can change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import join
from streamnest.downstream.exported import ExportedRecognizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.errors import UserError
from streamnest.streaming.step import like_state, plain_state


class StreamingRecognizer:
    """One stream and its text, that of `TextTask.recognize` on the whole audio however it is cut into pieces.

    The tokens of a frame are decided with the frame, so text is never taken back.

    Args:
        model: is put into evaluation mode; or an exported one.
        max_left_ms: the cap of an unlimited left context; longer streams see a window of their past.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: TextTask | ExportedRecognizer, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.session = model, session_of(model, max_left_ms)
        self.text = ""
        self._stream, self._state = self.session.open(), model.start(1)

    def push(self, samples: Any) -> str:
        """Hears the next samples `(n,)` at the model's rate; returns the text that they decided, maybe none."""
        with self.session.lock:
            return self._decide(self.session.push({self._stream: samples})[self._stream])

    def flush(self) -> str:
        """Ends the stream; returns the rest of its text. What is heard next is a new stream."""
        with self.session.lock:
            rest = self._decide(self.session.flush([self._stream])[self._stream])
            self.text = ""
            self._stream, self._state = self.session.open(), self.model.start(1)
            return rest

    def save(self) -> dict[str, Any]:
        """The stream as plain containers; it goes on with the same text after `restore`."""
        with self.session.lock:
            return {"stream": self.session.save(self._stream), "decoder": plain_state(self._state), "text": self.text}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on with a stream that was saved, here or in another process, in place of the current one.

        Raises:
            UserError: for anything that `save` of a recognizer with this model does not give; then the current stream
                goes on.
        """
        with self.session.lock:
            state, text = self._decoder_of(saved), saved["text"]
            stream = self.session.restore(saved["stream"])
            self.session.drop(self._stream)
            self._stream, self._state, self.text = stream, state, text

    def _decoder_of(self, saved: Any) -> Any:
        entries = ("stream", "decoder", "text")
        missing = [name for name in entries if name not in saved] if isinstance(saved, Mapping) else list(entries)
        if missing or not isinstance(saved["text"], str):
            raise UserError(f"the saved stream has no {', '.join(missing or ['text'])}: give what save() returned")
        return like_state(self.model.start(1), saved["decoder"], "decoder", self.model.tokenizer.size)

    @torch.no_grad()
    def _decide(self, frames: Tensor) -> str:
        lengths = torch.tensor([len(frames)], device=frames.device)
        (tokens,), self._state = self.model.decode(self.model.outputs(frames[None]), lengths, self._state)
        new = join(self.model.tokenizer, tokens, begun=bool(self.text))
        self.text += new
        return new
