"""Measurement of the look-ahead of a served model."""

from __future__ import annotations

from pathlib import Path

from leaks import wrap

from streamnest.checkpoint.loading import load_model
from streamnest.serving.certification import measure_lookahead


def test_a_leak_contradicts_the_declared_lookahead() -> None:
    model = load_model(Path(__file__).parents[1] / "fixtures/stored/ctc.ckpt")
    figures: dict[str | None, dict[str, float | None]] = {None: {}}
    measure_lookahead(model, figures)
    assert figures == {None: {"lookahead_measured": True}}
    wrap(model.encoder.layers[0], lambda _, out, *__: out + out.mean(1, keepdim=True))
    measure_lookahead(model, figures)
    assert figures == {None: {"lookahead_measured": False}}
