"""What a stream remembers between steps of the encoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from streamnest.encoder.attention import AttentionState
from streamnest.encoder.layer import LayerState

# How much past an unlimited left context keeps while streaming: memory and time of a step are bounded by it.
STREAM_LEFT_MS = 20_000.0
# Longer than any stream, and far from overflow.
OPEN_END = 1 << 48


class EncoderState(NamedTuple):
    """Everything a stream remembers between steps; rows of the batch are independent streams.

    Attributes:
        subsampling: the past of each stage of the stem.
        layers: the past of each block.
        heard: `(B,)` feature frames so far.
        position: `(B,)` encoder frames emitted so far.
    """

    subsampling: tuple[Tensor, ...]
    layers: tuple[LayerState, ...]
    heard: Tensor
    position: Tensor


def trim(state: LayerState, cached: int) -> LayerState:
    """Keeps the last `cached` keys and values."""
    (past, queries), convolution, waiting = state
    return LayerState(AttentionState(past.narrow(1, past.shape[1] - cached, cached), queries), convolution, waiting)
