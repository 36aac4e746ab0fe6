"""Measurement of the look-ahead that the layers of a served model declare."""

from __future__ import annotations

from typing import Any

from streamnest.encoder_task import EncoderTask
from streamnest.serving.served_model import ADAPTIVE
from streamnest.streaming.certificate import verify
from streamnest.streaming.probes.lookahead import lookahead


def measure_lookahead(model: Any, latency: dict[str | None, dict[str, float | None]]) -> None:
    """Adds `lookahead_measured` to the latency figures of each context: True if the measurement equals the declaration.

    It takes a fraction of a second per context; `streamnest verify` makes all measurements. An exported graph cannot be
    measured, and its figures stay as they are.

    Args:
        model: model that is served.
        latency: latency figures of each context by name.
    """
    if not isinstance(model, EncoderTask):
        return
    context = model.encoder.context_name
    measured = {name: figures for name, figures in latency.items() if name != ADAPTIVE}
    for name, figures in measured.items():
        model.encoder.use_context(name)
        figures["lookahead_measured"] = verify(model, probes=(lookahead,)).passed
    model.encoder.use_context(context)
    if ADAPTIVE in latency:
        latency[ADAPTIVE]["lookahead_measured"] = all(figures["lookahead_measured"] for figures in measured.values())
