"""Audio that is longer than what a stream remembers, or than what is heard at once: hearing it, and saying so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.downstream.exported import ExportedModel
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.session import StreamingSession

# Seconds of audio that are heard at once. Offline, attention holds numbers for each pair of frames: by
# their number 30 minutes need some 65 GB, two minutes a 225th of that. No utterance of training is as long.
AT_ONCE_S = 120.0
# Of past, where the left context is unlimited.
REMEMBERED_S = STREAM_LEFT_MS / 1000


class Listener:
    """Encoder frames of one recording after the other: of short ones at once, of long ones as of a stream.

    Args:
        model: in evaluation mode; an exported one hears all recordings as streams.
    """

    def __init__(self, model: EncoderTask | ExportedModel) -> None:
        self.model = model
        self._session: StreamingSession | None = None

    @torch.no_grad()
    def __call__(self, audio: Tensor, name: str) -> Tensor:
        """Audio `(N,)` to frames `(T', d)`.

        Raises:
            UserError: naming the audio, where it is long and the model cannot stream.
        """
        if isinstance(self.model, ExportedModel):
            return self.model.frames(audio)
        seconds = len(audio) / self.model.sample_rate
        if seconds > AT_ONCE_S:
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
                f"{name} lasts {seconds:.0f} s, and no more than {AT_ONCE_S:g} s are heard at once: cut it up ({error})"
            ) from None
        return self._session


def note_on_past(model: EncoderTask | ExportedModel, seconds: Sequence[float], what: str = "files") -> str:
    """How many streams have forgotten how they began; empty where none has.

    Args:
        model: that heard them, with the context it ran with.
        seconds: of each stream.
        what: they are.
    """
    past = model.remembered_s if isinstance(model, ExportedModel) else _remembered_s(model)
    longer = sum(past is not None and one > past for one in seconds)
    if not longer:
        return ""
    return (
        f"{longer} of {len(seconds)} {what} are longer than the {past:g} s of past that a stream remembers: "
        "from there on the result may differ from that of the whole audio at once"
    )


def _remembered_s(model: EncoderTask) -> float | None:
    return REMEMBERED_S if model.encoder.context.left is None else None


def note_on_streamed(model: EncoderTask, seconds: Sequence[float], what: str = "files") -> str:
    """How many were streamed because they are long, in a run that hears others at once; empty without any."""
    longer = sum(one > AT_ONCE_S for one in seconds)
    if not longer:
        return ""
    past = "" if model.encoder.context.left is not None else f", which remembers {REMEMBERED_S:g} s of past"
    return (
        f"{longer} of {len(seconds)} {what} are longer than {AT_ONCE_S:g} s and were heard as a stream{past}: at once, "
        "memory would grow with the square of the length"
    )
