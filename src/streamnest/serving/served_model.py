"""A model as a server uses it: a streaming session for each context, latency figures, and decoders of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.exported import ONE_CONTEXT, ExportedDiarizer, ExportedModel, ExportedRecognizer, session_of
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.serving.results import CodePredictor, Decoder, TextDecoder, TurnDecoder, frame_ms_of
from streamnest.streaming.adaptive import AdaptiveSession, AdaptiveSettings
from streamnest.streaming.session_base import Session

# Name of the context in which streams choose that of each chunk.
ADAPTIVE = "adaptive"
_LATENCY = ("frame_ms", "chunk_ms", "lookahead_ms", "latency_mean_ms", "latency_worst_ms")


@dataclass(frozen=True)
class ServedModel:
    """A model as a server uses it.

    Attributes:
        kind: `text`, `turns` or `codes`.
        sample_rate: sampling rate of all streams.
        context: name of the default context; None for a model with one context.
        sessions: session of each context by name; the sessions share their weights.
        latency: latency figures of each context by name.
        fields: further fields of `ready`.
        decoder: returns the decoder of a new stream.
    """

    kind: str
    sample_rate: int
    context: str | None
    sessions: dict[str | None, Session[Any]]
    latency: dict[str | None, dict[str, float | None]]
    fields: dict[str, Any]
    decoder: Callable[[], Decoder]

    @classmethod
    def of(cls, model: EncoderTask | ExportedModel, adaptive: AdaptiveSettings | None = None) -> ServedModel:
        """Prepares a model.

        Args:
            model: model to serve.
            adaptive: settings of the default context `adaptive`; None for the context of the model.

        Raises:
            UserError: for a task without results to serve, and for models that cannot stream, or not with `adaptive`.
        """
        kind, fields, decoder = _results(model)
        if isinstance(model, ExportedModel):
            if adaptive:
                raise UserError(ONE_CONTEXT)
            figures = _chosen(model.session.metadata["latency"])
            return cls(kind, model.sample_rate, None, {None: model.session}, {None: figures}, fields, decoder)
        encoder, context = model.encoder, model.encoder.context_name
        sessions: dict[str | None, Session[Any]] = {}
        latency: dict[str | None, dict[str, float | None]] = {}
        for name in encoder.choices.by_name or (None,):
            encoder.use_context(name)
            if name == context or model.latency.streams:
                sessions[name], latency[name] = session_of(model, STREAM_LEFT_MS), _chosen(asdict(model.latency))
        encoder.use_context(context)
        if adaptive:
            context, session = ADAPTIVE, AdaptiveSession(model, adaptive, record=False)
            largest = latency[session.contexts[-1].name]
            sessions[context] = session
            latency[context] = {**largest, "latency_mean_ms": adaptive.budget_ms}
        return cls(kind, model.sample_rate, context, sessions, latency, fields, decoder)

    def name_of(self, context: str | None) -> str | None:
        """Returns the name of the context that a client chose; None chooses the default one.

        Raises:
            UserError: for a name that the model does not have.
        """
        if context is None or context in self.sessions:
            return self.context if context is None else context
        names = [name for name in self.sessions if name]
        remedy = f"choose one of {', '.join(names)}" if names else "leave it out, because this model has only one"
        raise UserError(f"context is not a streaming context of this model: {remedy}")

    def described(self, context: str | None) -> dict[str, Any]:
        """Returns the fields that describe the streams of a context."""
        return {
            "kind": self.kind,
            "rate": self.sample_rate,
            "context": context,
            **self.latency[context],
            **self.fields,
        }

    def warm_up(self) -> None:
        """Runs the first steps of each session, which take longer than later ones."""
        for session in self.sessions.values():
            number = session.open()
            session.push({number: [0.0] * (session.first_samples + session.chunk_samples)})
            session.flush([number])


def _results(model: EncoderTask | ExportedModel) -> tuple[str, dict[str, Any], Callable[[], Decoder]]:
    """Returns the kind of the results of a model, fields that describe them, and their decoder."""
    if isinstance(model, TextTask | ExportedRecognizer):
        return TextDecoder.kind, {}, lambda: TextDecoder(model)
    if isinstance(model, Diarizer | ExportedDiarizer):
        fields = {
            "speakers": model.settings.max_speakers,
            "decision_ms": model.decision.future * frame_ms_of(model),
        }
        return TurnDecoder.kind, fields, lambda: TurnDecoder(model)
    if isinstance(model, Pretraining):
        size = {"codebooks": model.quantizer.num_codebooks, "classes": model.quantizer.num_classes}
        return CodePredictor.kind, size, lambda: CodePredictor(model)
    raise UserError("this model has no results to serve: give a checkpoint of task=ctc, rnnt, diarization or pretrain")


def _chosen(latency: dict[str, Any]) -> dict[str, float | None]:
    return {name: latency.get(name) for name in _LATENCY}
