"""One step of a batch of streams, and its state."""

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
    """Complete state of a batch of streams: nested tuples of tensors whose first dimension is the stream."""

    frontend: FrontendState
    norm: NormalizerState
    encoder: EncoderState


def init_state(model: EncoderTask, batch: int, max_left_ms: float = STREAM_LEFT_MS) -> StreamState:
    """Returns the state of `batch` streams before their first sample; see `FastConformer.init_state`."""
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
    """Computes one step of a batch of streams, with the arithmetic of `EncoderTask.forward`.

    Args:
        model: model in evaluation mode.
        audio: next samples `(B, n)`, enough for whole chunks: `first_samples`, then multiples of `chunk_samples`.
        state: state from `init_state` or the previous step.
        end: `(B,)` total samples of each stream that has ended, `OPEN_END` for others; None if none has ended.
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
    normalized, norm = model.input_norm.step(features, inside, state.norm)
    encoded, encoder = (encode or model.encoder.step)(normalized, state.encoder, lengths)
    return encoded, StreamState(frontend, norm, encoder)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Applies a function to the corresponding tensors of one or several states."""
    if isinstance(states[0], Tensor):
        return function(*states)
    parts = [map_state(function, *parts) for parts in zip(*states, strict=True)]
    return type(states[0])(*parts) if hasattr(states[0], "_fields") else tuple(parts)


def compact(x: Tensor) -> Tensor:
    """Returns a copy of a small view of a large tensor, so that the rest of that tensor can be freed."""
    return x.clone() if x.untyped_storage().nbytes() > 2 * x.nbytes else x


class Rows:
    """Concatenates tensors `(n, ...)` as they arrive, in memory that is reserved for all of them.

    A list of a hundred thousand small tensors takes several times their memory, and concatenating it twice that.

    Args:
        expected: total number of rows; if there are more, they are copied as they arrive.
    """

    def __init__(self, expected: int) -> None:
        self._expected, self._end = expected, 0
        self._reserved: Tensor | None = None

    def append(self, part: Tensor) -> None:
        """Adds rows at the end."""
        if self._reserved is None:
            self._reserved = part.new_empty(max(self._expected, len(part)), *part.shape[1:])
        if self._end + len(part) > len(self._reserved):
            more = part.new_empty(max(self._end, len(part)), *part.shape[1:])
            self._reserved = torch.cat([self.joined, more])
        self._reserved[self._end : self._end + len(part)] = part
        self._end += len(part)

    def __len__(self) -> int:
        return self._end

    @property
    def joined(self) -> Tensor:
        """All rows so far; empty and one-dimensional before the first."""
        return torch.empty(0) if self._reserved is None else self._reserved[: self._end]


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
