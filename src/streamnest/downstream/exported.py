"""Recognizer and diarizer that run an exported ONNX graph."""

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
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings
from streamnest.streaming.onnx_session import OnnxSession
from streamnest.streaming.session import StreamingSession

# Metadata of a head of each kind, besides its size and its output.
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
# Message about adaptive look-ahead.
ONE_CONTEXT = "--adaptive: an exported model has one context; give its checkpoint"
# Seconds of audio in a piece of a stream that need not be live.
_PIECE_S = 30


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of the diarization error rate, and the number of speaker columns."""

    max_speakers: int
    collar: float
    skip_overlap: bool


def check_options(context: str | None, device: str, max_left_ms: float | None = None) -> None:
    """Refuses options that an exported model does not support.

    Raises:
        UserError: for a context, a limit of the left context, and a device other than the CPU.
    """
    if max_left_ms is not None:
        raise UserError(
            "--max-left-ms: the left context of an exported model is fixed; choose it with streamnest export "
            "--max-left-ms"
        )
    if context:
        raise UserError("--context: an exported model has one context; choose it with streamnest export --context")
    if device != "cpu":
        raise UserError(f"--device {device}: exported models run on the CPU only; leave the option out")


def is_exported(path: str | Path) -> bool:
    """Returns True if a path has the name of an exported model."""
    return Path(path).suffix == ".onnx"


class ExportedModel:
    """Exported graph with a head, with the interface of a task.

    Args:
        session: session of a file that `streamnest export` wrote.

    Raises:
        UserError: for a file without a head of this kind, and for invalid metadata of the head.
    """

    kind: ClassVar[str]

    def __init__(self, session: OnnxSession) -> None:
        self.head = _checked_head(session, self.kind)
        self.session = session.of_head()
        self.sample_rate = session.sample_rate

    @property
    def past_s(self) -> float | None:
        """Seconds of left context that a stream keeps; None for all of it."""
        frames = self.session.cap_frames
        return None if frames is None else frames * self.session.frame_ms / 1000

    def frames(self, audio: Tensor) -> Tensor:
        """Returns the outputs of the head `(T', size)` for audio `(N,)`."""
        return stream_whole(self.session, audio)

    def outputs(self, frames: Tensor) -> Tensor:
        """Returns the frames unchanged: they are outputs of the head."""
        return frames


class ExportedRecognizer(ExportedModel):
    """Exported CTC recognizer, for `StreamingRecognizer`; the arguments are those of `ExportedModel`."""

    kind = "ctc"

    def __init__(self, session: OnnxSession) -> None:
        super().__init__(session)
        self.tokenizer = load_tokenizer(self.head["labels"])
        tokens, size = self.tokenizer.size, self.head["size"]
        if tokens != size:
            raise UserError(
                f"{session.path}: the tokenizer has {tokens} tokens, the graph {size} outputs: export it again"
            )

    @classmethod
    def of(cls, session: OnnxSession) -> ExportedRecognizer | None:
        """Returns the recognizer in a file; None for a file without one."""
        head = session.metadata.get("head")
        return cls(session) if isinstance(head, dict) and head.get("kind") == cls.kind else None

    def start(self, batch: int) -> Tensor:
        """Implements `TextTask.start`."""
        return torch.full((batch,), BLANK)

    def decode(self, outputs: Tensor, lengths: Tensor, state: Tensor) -> tuple[list[list[int]], Tensor]:
        """Implements `TextTask.decode`."""
        return greedy(outputs, lengths, state)

    def begin(self) -> Transcript:
        """Returns the empty transcript of a new stream."""
        return Transcript(self, [], self.start(1))

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """Implements `TextTask.search`."""
        return BeamSearch(self.tokenizer, beam, ngram, lm_weight, bonus)


@dataclass(frozen=True)
class Transcript:
    """Transcript of a stream of outputs of an exported recognizer."""

    recognizer: ExportedRecognizer
    tokens: list[int]
    state: Tensor

    def after(self, outputs: Tensor) -> Transcript:
        """Returns the transcript after the next outputs `(k, V)`."""
        (tokens,), state = self.recognizer.decode(outputs[None], torch.tensor([len(outputs)]), self.state)
        return Transcript(self.recognizer, self.tokens + tokens, state)

    @property
    def text(self) -> str:
        """The transcript so far."""
        return join(self.recognizer.tokenizer, self.tokens)


class ExportedDiarizer(ExportedModel):
    """Exported diarizer, for `StreamingDiarizer`; the arguments are those of `ExportedModel`."""

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


def stream_whole(session: StreamingSession | OnnxSession, audio: Tensor) -> Tensor:
    """Returns the frames `(T', d)` of a stream of audio `(N,)`, which is pushed in pieces, to limit memory."""
    number = session.open()
    frames = [session.push({number: piece})[number] for piece in audio.split(round(_PIECE_S * session.sample_rate))]
    return torch.cat([*frames, session.flush([number])[number]])


def session_of(
    model: EncoderTask | ExportedModel, max_left_ms: float, adaptive: AdaptiveSettings | None = None
) -> StreamingSession | OnnxSession:
    """Returns a streaming session of a model.

    Args:
        model: model to stream.
        max_left_ms: cap of an unlimited left context; that of an exported model is fixed in its file.
        adaptive: settings of adaptive look-ahead; None for the context of the model.

    Raises:
        UserError: for an exported model with `adaptive`.
    """
    if isinstance(model, ExportedModel):
        if adaptive:
            raise UserError(ONE_CONTEXT)
        return model.session
    return AdaptiveSession(model, adaptive, max_left_ms) if adaptive else StreamingSession(model, max_left_ms)


def _checked_head(session: OnnxSession, kind: str) -> dict[str, Any]:
    head, task, path = session.metadata.get("head"), session.metadata.get("task"), session.path
    if not isinstance(head, dict) or head.get("kind") != kind:
        if kind == "ctc" and task == "rnnt":
            raise UserError(f"{path} has only the encoder of an RNN-T model: use the checkpoint that it comes from")
        raise UserError(f"{path} has no head of task={kind} (its task is {task}): export a checkpoint of task={kind}")
    for name, types in {"size": (int,), "output": (str,), **_ENTRIES[kind]}.items():
        if type(head.get(name)) not in types:
            raise UserError(f"{path}: head.{name} in its metadata is not valid: export it again with streamnest export")
    for name in ("past", "future", "size"):
        if not 0 <= head.get(name, 1) < _MOST_FRAMES:
            raise UserError(f"{path}: head.{name}={head[name]} must be from 0 to {_MOST_FRAMES}")
    return head
