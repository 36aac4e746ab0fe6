"""Results of one stream: text, speaker activity or codes, computed from encoder frames as they arrive."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from streamnest.data.conversations.simulation import Turn, clipped
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.recognizer import IncrementalDecoder
from streamnest.downstream.diarization.activity import LiveDecision
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.exported import ExportedDiarizer, ExportedRecognizer
from streamnest.pretraining import Pretraining

Fields = dict[str, Any]


class Decoder(Protocol):
    """Results of one stream, as fields of the messages that docs/SERVING.md describes."""

    def add(self, frames: Tensor) -> Fields:
        """Consumes the next frames `(k, d)`; returns the fields of a partial result."""

    def end(self, frames: Tensor, seconds: float) -> Fields:
        """Consumes the last frames of a stream of this duration; returns the fields of its final result."""


class TextDecoder:
    """Text of a stream.

    Args:
        model: recognizer, or an exported one.
    """

    kind: ClassVar[str] = "text"

    def __init__(self, model: TextTask | ExportedRecognizer) -> None:
        self._decoder = IncrementalDecoder(model)

    def add(self, frames: Tensor) -> Fields:
        """Implements `Decoder.add`."""
        return {"text": self._decoder.add(frames)}

    def end(self, frames: Tensor, seconds: float) -> Fields:
        """Implements `Decoder.end`."""
        self._decoder.add(frames)
        return {"text": self._decoder.text}


class TurnDecoder:
    """Speaker activity of a stream, and its turns.

    Args:
        model: diarizer, or an exported one.
    """

    kind: ClassVar[str] = "turns"

    def __init__(self, model: Diarizer | ExportedDiarizer) -> None:
        self.model, self.frame_s = model, frame_ms_of(model) / 1000
        self._live = LiveDecision(model.decision, model.settings.max_speakers)
        self._state: Tensor | None = None
        self._frames = 0
        self._turns: list[Turn] = []
        self._begun: dict[int, int] = {}  # first frame of the turn of each speaker who is active

    def add(self, frames: Tensor) -> Fields:
        """Implements `Decoder.add`."""
        active, first = self._decided(frames), self._frames
        turns = self._followed(active.tolist())
        return {"active": active.int().tolist(), "first_frame": first, "turns": list(map(_plain, turns))}

    def end(self, frames: Tensor, seconds: float) -> Fields:
        """Implements `Decoder.end`."""
        active, first = torch.cat([self._decided(frames), self._live.flush()]), self._frames
        self._followed([*active.tolist(), [False] * self.model.settings.max_speakers])
        turns = clipped(self._turns, seconds)
        return {"active": active.int().tolist(), "first_frame": first, "turns": list(map(_plain, turns))}

    @torch.no_grad()
    def _decided(self, frames: Tensor) -> Tensor:
        probabilities, self._state = self.model.probabilities(frames[None], self._state)
        return self._live.push(probabilities[0])

    def _followed(self, rows: list[list[bool]]) -> list[Turn]:
        """Adds rows of activity to the turns; returns the turns that end in them."""
        ended = []
        for row in rows:
            for column, active in enumerate(row):
                if active:
                    self._begun.setdefault(column, self._frames)
                elif column in self._begun:
                    start, end = (frame * self.frame_s for frame in (self._begun.pop(column), self._frames))
                    ended.append(Turn(f"speaker {column + 1}", start, end))
            self._frames += 1
        self._turns += ended
        return ended


class CodePredictor:
    """Most probable codes of each frame of a pretrained encoder.

    Args:
        model: pretrained model with its heads.
    """

    kind: ClassVar[str] = "codes"

    def __init__(self, model: Pretraining) -> None:
        self.model, self._frames = model, 0

    @torch.no_grad()
    def add(self, frames: Tensor) -> Fields:
        """Implements `Decoder.add`."""
        codes = self.model.objective.logits(frames).argmax(-1)
        # Objectives that predict several later frames have a dimension for them.
        codes = codes if codes.ndim == 2 else codes[:, 0]
        first, self._frames = self._frames, self._frames + len(codes)
        return {"codes": codes.tolist(), "first_frame": first}

    def end(self, frames: Tensor, seconds: float) -> Fields:
        """Implements `Decoder.end`."""
        return self.add(frames)


def frame_ms_of(model: Diarizer | ExportedDiarizer) -> float:
    """Returns the stride of the encoder of a diarizer."""
    return model.session.frame_ms if isinstance(model, ExportedDiarizer) else model.encoder.frame_ms


def _plain(turn: Turn) -> Fields:
    return {"speaker": turn.speaker, "start": round(turn.start, 3), "end": round(turn.end, 3)}
