"""State of the encoder between streaming steps, and functions on nested states of any kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamnest.encoder.attention import AttentionState
from streamnest.encoder.layer import LayerState
from streamnest.errors import UserError

# Past that a stream keeps if its left context is unlimited: it bounds the memory and time of a step.
STREAM_LEFT_MS = 20_000.0
# End of a stream that is still open: longer than any stream, and far from overflow.
OPEN_END = 1 << 48


class EncoderState(NamedTuple):
    """State of the encoder between streaming steps; rows of the batch are independent streams.

    Attributes:
        subsampling: past of each subsampling stage; with re-encoded right context, also the inputs of the first layer
            that are encoded again, `(B, R, d)`.
        layers: state of each layer.
        num_features: `(B,)` feature frames consumed so far.
        position: `(B,)` encoder frames emitted so far.
    """

    subsampling: tuple[Tensor, ...]
    layers: tuple[LayerState, ...]
    num_features: Tensor
    position: Tensor


def trim(state: LayerState, cached: int, dropped: int = 0) -> LayerState:
    """Keeps the last `cached` keys and values before the last `dropped` ones."""
    (past, queries), convolution, waiting = state
    kept = past.narrow(1, past.shape[1] - dropped - cached, cached)
    return LayerState(AttentionState(kept, queries), convolution, waiting)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Applies a function to the corresponding tensors of one or several states."""
    if isinstance(states[0], Tensor):
        return function(*states)
    parts = [map_state(function, *parts) for parts in zip(*states, strict=True)]
    return type(states[0])(*parts) if hasattr(states[0], "_fields") else tuple(parts)


def plain_state(state: Any) -> Any:
    """Converts a state to lists of tensors, for `like_state`."""
    return state if isinstance(state, Tensor) else [plain_state(part) for part in state]


def like_state(template: Any, saved: Any, name: str = "state", limit: int | None = None) -> Any:
    """Converts the output of `plain_state` back to the tuples of a state.

    Args:
        template: state with the required shapes and types.
        saved: lists of tensors.
        name: name of the state in messages.
        limit: exclusive upper bound of integers, such as the size of a vocabulary for tokens; None for no bound.

    Raises:
        UserError: for other shapes or types, values that are not finite, and integers out of range.
    """
    if isinstance(template, Tensor):
        _check_like(template, saved, name, limit)
        return saved.detach().to(template.device).clone()
    if not isinstance(saved, list | tuple) or len(saved) != len(template):
        raise UserError(f"{name} is not a list of {len(template)} parts: pass the return value of save()")
    names = getattr(template, "_fields", range(len(template)))
    parts = [
        like_state(part, value, f"{name}.{label}", limit)
        for label, part, value in zip(names, template, saved, strict=True)
    ]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def _check_like(template: Tensor, saved: Any, name: str, limit: int | None) -> None:
    if not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.is_meta:
        raise UserError(f"{name} is not a tensor: pass the return value of save()")
    if saved.dtype != template.dtype or saved.shape != template.shape:
        found, needed = (f"{tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')}" for x in (saved, template))
        raise UserError(f"{name} is {found}, but this model needs {needed}: restore it with the model that saved it")
    if saved.is_floating_point():
        legal = saved.isfinite().all()
    else:
        legal = (saved >= 0).all() & (saved < (limit or OPEN_END)).all()
    if not legal:
        raise UserError(
            f"{name} has values that are not finite, or integers out of range: pass the return value of save()"
        )
