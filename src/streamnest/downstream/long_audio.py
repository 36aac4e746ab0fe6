"""Encoding of recordings of any length, and notes on those that exceed a limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.downstream.exported import ExportedModel, stream_whole
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.long_forward import FULL_FORWARD_S
from streamnest.streaming.session import StreamingSession

# Cap of an unlimited left context in a stream.
STREAM_PAST_S = STREAM_LEFT_MS / 1000


class RecordingEncoder:
    """Encodes recordings one after the other: short ones in one forward pass, long ones as a stream.

    Args:
        model: model in evaluation mode; an exported one encodes all recordings as streams.
        max_left_ms: limit of an unlimited left context in streams.
    """

    def __init__(self, model: EncoderTask | ExportedModel, max_left_ms: float = STREAM_LEFT_MS) -> None:
        self.model, self.max_left_ms = model, max_left_ms
        self._session: StreamingSession | None = None

    @torch.no_grad()
    def __call__(self, audio: Tensor, name: str) -> Tensor:
        """Returns the frames `(T', d)` of audio `(N,)`.

        Raises:
            UserError: with the name of the audio, if it is long and the model cannot stream.
        """
        if isinstance(self.model, ExportedModel):
            return self.model.frames(audio)
        seconds = len(audio) / self.model.sample_rate
        if seconds > FULL_FORWARD_S:
            return stream_whole(self._opened(self.model, seconds, name), audio)
        encoded, valid = self.model(audio[None], torch.tensor([len(audio)], device=audio.device))
        return encoded[0, : int(valid)]

    def _opened(self, model: EncoderTask, seconds: float, name: str) -> StreamingSession:
        try:
            self._session = self._session or StreamingSession(model, self.max_left_ms)
        except UserError as error:
            raise UserError(
                f"{name} is {seconds:.0f} s long, and the limit of a model that cannot stream is {FULL_FORWARD_S:g} s: "
                f"split the file ({error})"
            ) from None
        return self._session


def note_on_past(
    model: EncoderTask | ExportedModel, seconds: Sequence[float], what: str = "files", max_left_ms: float | None = None
) -> str:
    """Returns a note on streams that are longer than the left context; empty if there are none.

    Args:
        model: model that ran the streams, in the context that they ran in.
        seconds: length of each stream.
        what: plural noun for the streams.
        max_left_ms: limit of an unlimited left context; None for the default.
    """
    past = model.past_s if isinstance(model, ExportedModel) else _past_s(model, max_left_ms)
    longer = sum(past is not None and one > past for one in seconds)
    if not longer:
        return ""
    return (
        f"{longer} of {len(seconds)} {what} are longer than the {past:g} s of left context that a stream keeps: "
        "after that time the result may differ from offline recognition"
    )


def _past_s(model: EncoderTask, max_left_ms: float | None) -> float | None:
    if model.encoder.context.left is not None:
        return None
    return STREAM_PAST_S if max_left_ms is None else max_left_ms / 1000


def note_on_streamed(
    model: EncoderTask, seconds: Sequence[float], what: str = "files", max_left_ms: float | None = None
) -> str:
    """Returns a note on recordings that were too long for one forward pass; empty if there are none.

    The arguments are those of `note_on_past`.
    """
    longer, past = sum(one > FULL_FORWARD_S for one in seconds), _past_s(model, max_left_ms)
    if not longer:
        return ""
    kept = "" if past is None else f" with {past:g} s of left context"
    return (
        f"{longer} of {len(seconds)} {what} are longer than {FULL_FORWARD_S:g} s and were streamed{kept} to limit "
        "memory"
    )
