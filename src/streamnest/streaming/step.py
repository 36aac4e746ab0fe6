"""One step of a batch of streams, and the state that it takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.encoder import EncoderState
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.frontend import FrontendState
from streamnest.normalization import NormalizerState


class StreamState(NamedTuple):
    """Everything that streams remember: nested tuples of tensors whose first dimension is the stream."""

    frontend: FrontendState
    norm: NormalizerState
    encoder: EncoderState


def init_state(model: EncoderTask, batch: int, max_left_ms: float = STREAM_LEFT_MS) -> StreamState:
    """The state of `batch` streams before their first sample; see `FastConformer.init_state`."""
    encoder = model.encoder.init_state(batch, max_left_ms)
    return StreamState(model.frontend.init_state(batch), model.input_norm.init_state(batch), encoder)


@torch.no_grad()
def step(
    model: EncoderTask,
    audio: Tensor,
    state: StreamState,
    end: Tensor | None = None,
    encode: Callable[..., tuple[Tensor, EncoderState]] | None = None,
) -> tuple[Tensor, StreamState]:
    """One step of a batch of streams, with the arithmetic of `EncoderTask.forward`.

    Args:
        model: in evaluation mode.
        audio: the next samples `(B, n)`, so many that whole chunks come out: `first_samples`, then `chunk_samples`.
        state: from `init_state` or the previous step.
        end: `(B,)` samples in each whole stream, where it is over; None where none is.
        encode: step of the encoder, such as `FastStep`; by default `FastConformer.step`.

    Returns:
        Encoder frames `(B, k, d)` and the next state.
    """
    features, frontend = model.frontend.step(audio, state.frontend, end)
    lengths = inside = None
    if end is not None:
        lengths = model.frontend.num_frames(end)
        index = state.frontend.frames[:, None] + torch.arange(features.shape[-1], device=features.device)
        inside = ((index >= 0) & (index < lengths[:, None]))[:, None]
    normalised, norm = model.input_norm.step(features, inside, state.norm)
    encoded, encoder = (encode or model.encoder.step)(normalised, state.encoder, lengths)
    return encoded, StreamState(frontend, norm, encoder)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Applies a function to the tensors at the same place of one or several states."""
    if isinstance(states[0], Tensor):
        return function(*states)
    parts = [map_state(function, *parts) for parts in zip(*states, strict=True)]
    return type(states[0])(*parts) if hasattr(states[0], "_fields") else tuple(parts)


def compact(x: Tensor) -> Tensor:
    """A tensor that holds no more than twice its own memory: a copy if it is a small view of a large tensor."""
    return x.clone() if x.untyped_storage().nbytes() > 2 * x.nbytes else x


def plain_state(state: Any) -> Any:
    """A state as lists of tensors, for `like_state`."""
    return state if isinstance(state, Tensor) else [plain_state(part) for part in state]


def like_state(template: Any, saved: Any, name: str = "state", limit: int | None = None) -> Any:
    """Puts the tensors of `plain_state` into the tuples of a state.

    Args:
        template: state of the sizes and types that are needed.
        saved: lists of tensors.
        name: of the state, for messages.
        limit: integers are below it, such as tokens below the size of their vocabulary; None is any.

    Raises:
        UserError: for other sizes or types, values that are not finite, and integers out of range.
    """
    if isinstance(template, Tensor):
        _check_like(template, saved, name, limit)
        return saved.detach().to(template.device).clone()
    if not isinstance(saved, list | tuple) or len(saved) != len(template):
        raise UserError(f"{name} is not a list of {len(template)} parts: give what save() returned")
    names = getattr(template, "_fields", range(len(template)))
    parts = [
        like_state(part, value, f"{name}.{label}", limit)
        for label, part, value in zip(names, template, saved, strict=True)
    ]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def _check_like(template: Tensor, saved: Any, name: str, limit: int | None) -> None:
    if not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.is_meta:
        raise UserError(f"{name} is not a tensor: give what save() returned")
    if saved.dtype != template.dtype or saved.shape != template.shape:
        theirs, ours = (f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}" for x in (saved, template))
        raise UserError(f"{name} is {theirs}, but this model needs {ours}: restore it with the model that saved it")
    if saved.is_floating_point():
        legal = saved.isfinite().all()
    else:
        legal = (saved >= 0).all() & (saved < (limit or OPEN_END)).all()
    if not legal:
        raise UserError(f"{name} holds values that are not finite, or integers out of range: give what save() returned")
