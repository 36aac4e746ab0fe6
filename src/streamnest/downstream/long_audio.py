"""Encoding of recordings of any length, and notes on those that exceed a limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.downstream.exported import ExportedModel
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.session import StreamingSession

# Longest audio in seconds for one offline forward pass. The memory of attention with unlimited context grows with the
# square of the length: some 65 GB for 30 minutes, a 225th of that for two minutes. With limited left context it grows
# with the length, but the frames of all layers remain. Training utterances are shorter.
FULL_FORWARD_S = 120.0
# Cap of an unlimited left context in a stream.
STREAM_PAST_S = STREAM_LEFT_MS / 1000


class RecordingEncoder:
    """Encodes recordings one after the other: short ones in one forward pass, long ones as a stream.

    Args:
        model: model in evaluation mode; an exported one encodes all recordings as streams.
    """

    def __init__(self, model: EncoderTask | ExportedModel) -> None:
        self.model = model
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
            session = self._opened(self.model, seconds, name)
            number = session.open()
            return torch.cat([session.push({number: audio})[number], session.flush([number])[number]])
        encoded, valid = self.model(audio[None], torch.tensor([len(audio)], device=audio.device))
        return encoded[0, : int(valid)]

    def _opened(self, model: EncoderTask, seconds: float, name: str) -> StreamingSession:
        try:
            self._session = self._session or StreamingSession(model)
        except UserError as error:
            raise UserError(
                f"{name} is {seconds:.0f} s long, and the limit of a model that cannot stream is {FULL_FORWARD_S:g} s: "
                f"split the file ({error})"
            ) from None
        return self._session


def note_on_past(model: EncoderTask | ExportedModel, seconds: Sequence[float], what: str = "files") -> str:
    """Returns a note on streams that are longer than the left context; empty if there are none.

    Args:
        model: model that ran the streams, in the context that they ran in.
        seconds: length of each stream.
        what: plural noun for the streams.
    """
    past = model.past_s if isinstance(model, ExportedModel) else _past_s(model)
    longer = sum(past is not None and one > past for one in seconds)
    if not longer:
        return ""
    return (
        f"{longer} of {len(seconds)} {what} are longer than the {past:g} s of left context that a stream keeps: "
        "after that time the result may differ from offline recognition"
    )


def _past_s(model: EncoderTask) -> float | None:
    return STREAM_PAST_S if model.encoder.context.left is None else None


def note_on_streamed(model: EncoderTask, seconds: Sequence[float], what: str = "files") -> str:
    """Returns a note on recordings that were too long for one forward pass; empty if there are none."""
    longer = sum(one > FULL_FORWARD_S for one in seconds)
    if not longer:
        return ""
    past = "" if model.encoder.context.left is not None else f" with {STREAM_PAST_S:g} s of left context"
    return (
        f"{longer} of {len(seconds)} {what} are longer than {FULL_FORWARD_S:g} s and were streamed{past} to limit "
        "memory"
    )
