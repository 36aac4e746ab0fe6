"""Messages of the WebSocket protocol, which docs/SERVING.md describes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamnest.downstream.exported import ExportedModel
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.serving.engine import Result

FORMATS = {"int16": "<i2", "float32": "<f4"}
_LONGEST_TEXT = 4096
_LATENCY = ("frame_ms", "chunk_ms", "lookahead_ms", "latency_mean_ms", "latency_worst_ms")


@dataclass(frozen=True)
class Hello:
    """First message of a client: format of its samples, and its token."""

    format: str
    token: str | None

    @classmethod
    def parse(cls, text: Any, rate: int) -> Hello:
        """Parses the first message.

        Raises:
            UserError: for anything but a JSON object with `rate`, which must be that of the model, and `format`.
        """
        hello = _parsed(text)
        if type(hello.get("rate")) is not int or hello["rate"] != rate:
            raise UserError(f"rate must be {rate}, the sampling rate of the model: resample the audio before")
        if hello.get("format") not in list(FORMATS):  # a list compares values that cannot be hashed
            raise UserError(f"format must be {' or '.join(FORMATS)}")
        token = hello.get("token")
        return cls(hello["format"], token if isinstance(token, str) else None)

    def samples(self, data: bytes) -> NDArray[Any]:
        """Returns the samples `(n,)` of a binary message.

        Raises:
            UserError: for a message that ends within a sample.
        """
        kind = np.dtype(FORMATS[self.format])
        if len(data) % kind.itemsize:
            raise UserError(f"a message of {len(data)} bytes is not a whole number of {self.format} samples")
        return np.frombuffer(data, kind)


def require_end(text: Any) -> None:
    """Checks the last message of a client.

    Raises:
        UserError: for anything but `{"end": true}`.
    """
    if _parsed(text).get("end") is not True:
        raise UserError('after the first message, send binary audio or {"end": true}')


def ready(model: EncoderTask | ExportedModel, rate: int) -> dict[str, Any]:
    """Returns the first message of the server, with the latency that the layers of the model declare."""
    latency = model.session.metadata["latency"] if isinstance(model, ExportedModel) else asdict(model.latency)
    return {"type": "ready", "rate": rate, **{name: latency.get(name) for name in _LATENCY}}


def message(result: Result) -> dict[str, Any]:
    """Returns the message for a result."""
    if result.kind == "error":
        return error(result.text)
    times = {"seconds": round(result.seconds, 4), "delay_ms": round(result.delay_ms, 2)}
    return {"type": result.kind, "text": result.text, **times}


def error(text: str) -> dict[str, Any]:
    """Returns the message for an error."""
    return {"type": "error", "message": text}


def _parsed(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) and len(text) <= _LONGEST_TEXT else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"a text message must be a JSON object of at most {_LONGEST_TEXT} characters")
    return value
