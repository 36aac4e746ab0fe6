"""The schema of the encoder's config."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamnest.encoder.context import ContextChoice


@dataclass
class EncoderConfig:
    """Schema of the `encoder` group; the presets are in `configs/encoder`.

    Attributes:
        num_mels: bands of the input.
        hop_ms: milliseconds between feature frames.
        subsampling_factor: feature frames per encoder frame.
        subsampling_padding: "aligned" or "shifted", see `Subsampling`.
        subsampling_channels: of the stem.
        d_model: width.
        num_layers: blocks.
        num_heads: attention heads; divides `d_model`.
        ff_expansion: feed-forward width over `d_model`.
        left_context_ms: attention to the past; None is unlimited.
        right_context_ms: attention to the future; None is unlimited.
        style: "chunked", "regular" or "delayed", see `Context`.
        contexts: by name, what training draws from, one per batch; empty trains with the one context above, which is
            otherwise that of validation and, if none is named, of inference.
        conv_kernel_size: taps of the depthwise convolutions, in encoder frames.
        conv_padding: "causal" or "symmetric".
        conv_norm: "layer_norm", "batch_norm" or "frozen_batch_norm".
        bias: of linear and convolution layers inside the blocks.
        scale_input: multiply the stem's output by sqrt(d_model).
        dropout: of the blocks.
        dropout_input: after the stem.
        dropout_attention: of attention weights.
        normalize: how features are normalised before they come here; part of the latency contract.
        activation_checkpointing: while training, keep the input of each layer only and recompute the rest in the
            backward pass: a third more arithmetic for a fraction of the memory.
        allow_future_leak: train although a stage hears more future than the context says.
    """

    _target_: str = "streamnest.encoder.FastConformer.build"
    num_mels: int = 80
    hop_ms: float = 10.0
    subsampling_factor: int = 4
    subsampling_padding: str = "aligned"
    subsampling_channels: int = 256
    d_model: int = 256
    num_layers: int = 8
    num_heads: int = 4
    ff_expansion: int = 4
    left_context_ms: float | None = None
    right_context_ms: float | None = None
    style: str = "chunked"
    contexts: dict[str, ContextChoice] = field(default_factory=dict)
    conv_kernel_size: int = 9
    conv_padding: str = "causal"
    conv_norm: str = "layer_norm"
    bias: bool = True
    scale_input: bool = True
    dropout: float = 0.1
    dropout_input: float = 0.1
    dropout_attention: float = 0.1
    normalize: str = "global"
    activation_checkpointing: bool = False
    allow_future_leak: bool = False
