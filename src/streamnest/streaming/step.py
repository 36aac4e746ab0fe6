"""One step of a batch of streams, and its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from streamnest.encoder import EncoderState
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
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
