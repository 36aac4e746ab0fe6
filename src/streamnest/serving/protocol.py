"""Messages of the WebSocket protocol, which docs/SERVING.md describes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamnest.errors import UserError
from streamnest.serving.served_model import ServedModel
from streamnest.serving.stream import Result

FORMATS = {"int16": "<i2", "float32": "<f4"}
_LONGEST_TEXT = 4096
_RATES = (8000, 192_000)
# Least common divisor of the rates of a client and a model: audio is resampled in pieces of whole periods, which are
# up to 50 ms long.
_LEAST_DIVISOR = 20
# Results so far of a resumed stream that had none.
_NOTHING: dict[str, dict[str, Any]] = {"text": {"text": ""}, "turns": {"turns": []}, "codes": {}}


@dataclass(frozen=True)
class Hello:
    """First message of a client: rate and format of its samples, token, context, and stream to resume."""

    rate: int
    format: str
    token: str | None = None
    context: str | None = None
    resume: str | None = None

    @classmethod
    def parse(cls, text: Any, rate: int) -> Hello:
        """Parses the first message.

        Raises:
            UserError: unless it is a JSON object with a `rate` that can be resampled in pieces and a `format`; and for
                a context or a stream to resume that is not a text.
        """
        hello = _parsed(text)
        if not _can_resample(hello.get("rate"), rate):
            raise UserError(
                f"rate must be {rate}, the sampling rate of the model, or from {_RATES[0]} to {_RATES[1]} Hz with a "
                f"common divisor of at least {_LEAST_DIVISOR} Hz, such as 8000, 44100 or 48000"
            )
        if hello.get("format") not in list(FORMATS):  # a list compares values that cannot be hashed
            raise UserError(f"format must be {' or '.join(FORMATS)}")
        for name in ("context", "resume"):
            if not isinstance(hello.get(name), str | None):
                raise UserError(f"{name} must be a text")
        token = hello.get("token")
        token = token if isinstance(token, str) else None
        return cls(hello["rate"], hello["format"], token, hello.get("context"), hello.get("resume"))

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


def ready(served: ServedModel, context: str | None, resume: str | None) -> dict[str, Any]:
    """Returns the first message of the server.

    Args:
        served: the model.
        context: name of the context of the stream.
        resume: secret that resumes the stream; None if streams are not kept.
    """
    return {"type": "ready", **served.described(context), "resume": resume}


def resumed(kind: str, samples: int, so_far: dict[str, Any]) -> dict[str, Any]:
    """Returns further fields of the first message for a stream that is resumed."""
    return {"samples": samples, **_NOTHING[kind], **so_far}


def described(served: ServedModel) -> dict[str, Any]:
    """Returns the description of a model and its contexts."""
    contexts = {name: figures for name, figures in served.latency.items() if name}
    return {**served.described(served.context), "contexts": contexts}


def message(result: Result) -> dict[str, Any]:
    """Returns the message for a result."""
    if result.kind == "error":
        return error(result.fields["message"])
    progress = {
        "seconds": round(result.seconds, 4),
        "frames": result.frames,
        "delay_ms": round(result.delay_ms, 2),
    }
    return {"type": result.kind, **result.fields, **progress}


def error(text: str) -> dict[str, Any]:
    """Returns the message for an error."""
    return {"type": "error", "message": text}


def _can_resample(rate: Any, to: int) -> bool:
    within = type(rate) is int and _RATES[0] <= rate <= _RATES[1]
    return within and (rate == to or math.gcd(rate, to) >= _LEAST_DIVISOR)


def _parsed(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) and len(text) <= _LONGEST_TEXT else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"a text message must be a JSON object of at most {_LONGEST_TEXT} characters")
    return value
