"""Recognizer and diarizer whose network is an exported graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from streamnest.data.conversations.simulation import Turn
from streamnest.downstream.asr.ctc import greedy
from streamnest.downstream.asr.ctc_decoding import BeamSearch, Hypothesis
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.vocabulary import BLANK, join, load_tokenizer
from streamnest.downstream.diarization.activity import Decision, frames_to_turns
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.session import StreamingSession

# What a head of each kind must say of itself besides its size and its output.
_ENTRIES: dict[str, dict[str, tuple[type, ...]]] = {
    "ctc": {"labels": (dict,)},
    "diarization": {
        "threshold": (float,),
        "past": (int,),
        "future": (int,),
        "collar": (float, int),
        "skip_overlap": (bool,),
    },
}
_MOST_FRAMES = 1 << 20


@dataclass(frozen=True)
class ScoringSettings:
    """How a diarizer is scored, and its number of outputs."""

    max_speakers: int
    collar: float
    skip_overlap: bool


def check_options(context: str | None, device: str) -> None:
    """Refuses options of a command that mean nothing to an exported model.

    Raises:
        UserError: for a context, and for a device other than the processor.
    """
    if context:
        raise UserError("--context: an exported model has one context; streamnest export --context chooses it")
    if device != "cpu":
        raise UserError(f"--device {device}: exported models run on the processor here")


def is_exported(path: str | Path) -> bool:
    """True if the name of a path is that of an exported model."""
    return Path(path).suffix == ".onnx"


class ExportedModel:
    """Interface of commands to a model that is an exported graph.

    Args:
        session: of a file of `streamnest export`.

    Raises:
        UserError: for a file without such a head, and for a description of it that makes no sense.
    """

    kind: ClassVar[str]

    def __init__(self, session: OnnxSession) -> None:
        self.head = _checked_head(session, self.kind)
        self.session = session.of_head()
        self.sample_rate = session.sample_rate

    @property
    def past_s(self) -> float | None:
        """Seconds of past after which a stream differs from the whole audio at once; None is never."""
        frames = self.session.cap_frames
        return None if frames is None else frames * self.session.frame_ms / 1000

    def frames(self, audio: Tensor) -> Tensor:
        """Outputs of the head `(T', size)` for audio `(N,)`."""
        number = self.session.open()
        return torch.cat([self.session.push({number: audio})[number], self.session.flush([number])[number]])

    def outputs(self, frames: Tensor) -> Tensor:
        """The frames, which are outputs of the head already."""
        return frames


class ExportedRecognizer(ExportedModel):
    """A recognizer by CTC, for `StreamingRecognizer`; see `ExportedModel` for the arguments."""

    kind = "ctc"

    def __init__(self, session: OnnxSession) -> None:
        super().__init__(session)
        self.tokenizer = load_tokenizer(self.head["labels"])
        tokens, size = self.tokenizer.size, self.head["size"]
        if tokens != size:
            raise UserError(f"{session.path}: {tokens} tokens, but {size} outputs: export it again")

    @classmethod
    def of(cls, session: OnnxSession) -> ExportedRecognizer | None:
        """The recognizer in a file; None if it holds none."""
        head = session.metadata.get("head")
        return cls(session) if isinstance(head, dict) and head.get("kind") == cls.kind else None

    def start(self, batch: int) -> Tensor:
        """Implements `TextTask.start`."""
        return torch.full((batch,), BLANK)

    def decode(self, outputs: Tensor, lengths: Tensor, state: Tensor) -> tuple[list[list[int]], Tensor]:
        """Implements `TextTask.decode`."""
        return greedy(outputs, lengths, state)

    def begin(self) -> Transcript:
        """The transcript of a stream before its first frame."""
        return Transcript(self, [], self.start(1))

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """Implements `TextTask.search`."""
        return BeamSearch(self.tokenizer, beam, ngram, lm_weight, bonus)


@dataclass(frozen=True)
class Transcript:
    """Text of a stream of outputs of an exported recognizer."""

    reader: ExportedRecognizer
    tokens: list[int]
    state: Tensor

    def after(self, outputs: Tensor) -> Transcript:
        """The transcript after the next outputs `(k, V)`."""
        (tokens,), state = self.reader.decode(outputs[None], torch.tensor([len(outputs)]), self.state)
        return Transcript(self.reader, self.tokens + tokens, state)

    @property
    def text(self) -> str:
        """As words."""
        return join(self.reader.tokenizer, self.tokens)


class ExportedDiarizer(ExportedModel):
    """A diarizer, for `StreamingDiarizer`; see `ExportedModel` for the arguments."""

    kind = "diarization"

    def __init__(self, session: OnnxSession) -> None:
        super().__init__(session)
        self.decision = Decision(*(self.head[name] for name in ("threshold", "past", "future")))
        self.settings = ScoringSettings(self.head["size"], self.head["collar"], self.head["skip_overlap"])

    def probabilities(self, encoded: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Implements `Diarizer.probabilities`; the graph keeps the state."""
        return encoded, None

    def turns(self, active: Tensor) -> list[Turn]:
        """Implements `Diarizer.turns`."""
        return frames_to_turns(active, self.session.frame_ms / 1000)


def session_of(model: EncoderTask | ExportedModel, max_left_ms: float) -> StreamingSession | OnnxSession:
    """A session of a model; an exported one has its cap of the left context in the file."""
    return model.session if isinstance(model, ExportedModel) else StreamingSession(model, max_left_ms)


def _checked_head(session: OnnxSession, kind: str) -> dict[str, Any]:
    head, task, path = session.metadata.get("head"), session.metadata.get("task"), session.path
    if not isinstance(head, dict) or head.get("kind") != kind:
        if kind == "ctc" and task == "rnnt":
            raise UserError(f"{path} holds no search of its transducer: give the checkpoint that it was exported from")
        raise UserError(f"{path} has no head of task={kind} (its task is {task}): export a checkpoint of task={kind}")
    for name, types in {"size": (int,), "output": (str,), **_ENTRIES[kind]}.items():
        if type(head.get(name)) not in types:
            raise UserError(f"{path}: its metadata has no usable head.{name}: export it again with streamnest export")
    for name in ("past", "future", "size"):
        if not 0 <= head.get(name, 1) < _MOST_FRAMES:
            raise UserError(f"{path}: head.{name}={head[name]} must be from 0 to {_MOST_FRAMES}")
    return head
