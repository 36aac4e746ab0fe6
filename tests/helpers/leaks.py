"""Leaks to plant into a model. A plant changes the class of a module, so that copies have the leak as well."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import streamnest.streaming.probes.latencies
import streamnest.streaming.probes.sessions
from streamnest.data.batch import Batch
from streamnest.encoder.context import Context
from streamnest.pretraining import Pretraining

Plant = Callable[[Pretraining], Any]


def become(part: Any, kind: type) -> None:
    """Changes the class of a module to a subclass."""
    assert issubclass(kind, type(part)), f"{kind.__name__} is not a subclass of {type(part).__name__}"
    part.__class__ = overriding(kind)


def overriding(kind: type) -> type:
    """Returns a class whose methods all override one, because a plant in a method that is never called is void."""
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    new = [name for name, value in vars(kind).items() if isinstance(value, FunctionType) and name not in inherited]
    assert not new, f"{kind.__name__} overrides nothing: {new}"
    return kind


def wrap(part: Any, change: Callable[..., Any], method: str = "forward") -> None:
    """Passes the output of a method through `change(module, output, *arguments)`."""
    kind = type(part)

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = getattr(kind, method)(self, *args, **kwargs)
        if isinstance(out, tuple):
            return (change(self, out[0], *args), *out[1:])
        return change(self, out, *args)

    part.__class__ = type(f"Leaking{kind.__name__}", (kind,), {method: changed})


def mean_if(condition: Callable[..., bool], time: int = 1, scale: float = 1.0) -> Callable[..., Tensor]:
    """Adds the mean over time if a condition on the module, its output and its arguments holds."""

    def change(part: Any, x: Tensor, *args: Any) -> Tensor:
        return x + scale * x.mean(time, keepdim=True) if condition(part, x, *args) else x

    return change


def rows_if(condition: Callable[..., bool]) -> Callable[..., Tensor]:
    """Adds the next row of the batch if a condition holds."""
    return lambda part, x, *args: x + 0.1 * x.roll(1, 0) if condition(part, x, *args) else x


def layer(model: Pretraining, number: int = 1) -> Any:
    return model.encoder.layers[number]


def on_class(model: Pretraining, name: str, method: Callable[..., Any]) -> None:
    become(model, type(f"Leaking{type(model).__name__}", (type(model),), {name: method}))


def in_step_only(model: Pretraining) -> None:
    """Adds a mean over time in the training step only."""
    base, inside = type(model).training_step, list[bool]()

    def training_step(self: Pretraining, batch: Batch, batch_idx: int) -> Tensor:
        inside.append(True)
        try:
            return base(self, batch, batch_idx)
        finally:
            inside.clear()

    on_class(model, "training_step", training_step)
    wrap(layer(model).convolution, mean_if(lambda *_: bool(inside)))


def features_minus_mean(model: Pretraining) -> None:
    base = type(model).prepare_batch

    def prepare_batch(self: Pretraining, batch: Batch, step: int) -> Any:
        features, codes, context = base(self, batch, step)
        return features - features.mean(-1, keepdim=True), codes, context

    on_class(model, "prepare_batch", prepare_batch)


def encode_plus_mean(model: Pretraining) -> None:
    base = type(model).encode

    def encode(self: Pretraining, *inputs: Any) -> Any:
        encoded, frames = base(self, *inputs)
        return encoded + encoded.mean(1, keepdim=True), frames

    on_class(model, "encode", encode)


def with_context(model: Pretraining, kind: type[Context]) -> None:
    old = model.encoder.context
    model.encoder.context = overriding(kind)(old.left, old.right, old.style)


def seeing(visible: Callable[..., Tensor]) -> Plant:
    """Replaces the method of the context that decides which keys a query sees."""
    return lambda model: with_context(model, type("Leaking", (Context,), {"visible": visible}))


def visible(change: Callable[[Context, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Plant:
    return seeing(lambda self, queries, keys: Context.visible(self, *change(self, queries, keys)))


def gate(model: Pretraining, value: float = 0.0, opening: Callable[[Tensor], Tensor] = torch.tanh) -> None:
    """Adds a mean over time behind a gate that a parameter closes initially."""
    part = layer(model).feed_forward_out
    part.gate = nn.Parameter(torch.full((1,), value))
    wrap(part, lambda self, x, *_: x + opening(self.gate) * x.mean(1, keepdim=True))


def row_gate(model: Pretraining) -> None:
    part = layer(model).norm_out
    part.gate = nn.Parameter(torch.ones(()))
    wrap(part, lambda self, x, *_: x + (1 - self.gate) * x.mean(0, keepdim=True))


def on_audio(condition: Callable[[Tensor], Tensor]) -> Plant:
    """Adds a mean over time to the features if the audio fulfills a condition."""
    return lambda model: wrap(
        model.frontend, lambda _, x, audio, *__: x + x.mean(-1, keepdim=True) if condition(audio) else x
    )


def on_session(monkeypatch: pytest.MonkeyPatch, session: type) -> None:
    """Makes the probes use another session class."""
    for probe in (streamnest.streaming.probes.sessions, streamnest.streaming.probes.latencies):
        monkeypatch.setattr(probe, "StreamingSession", overriding(session))
