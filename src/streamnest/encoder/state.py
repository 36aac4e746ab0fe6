"""State of the encoder between streaming steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from streamnest.encoder.attention import AttentionState
from streamnest.encoder.layer import LayerState

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
