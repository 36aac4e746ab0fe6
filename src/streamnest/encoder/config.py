"""Schema of the encoder's config, and roles of its fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from streamnest.encoder.context_choices import ContextChoice


def preset_field(default: Any) -> Any:
    """Declares a field that presets choose; see `EncoderConfig`."""
    return field(default=default, metadata={"roles": ("preset",)})


def training_field(default: Any) -> Any:
    """Declares a field that affects training only; see `EncoderConfig`."""
    return field(default=default, metadata={"roles": ("training",)})


def fields_with(role: str, *schemas: type) -> set[str]:
    """Returns the names of the fields of schemas that have a role; see `EncoderConfig`."""
    return {one.name for schema in schemas for one in fields(schema) if role in one.metadata.get("roles", ())}


@dataclass
class EncoderConfig:
    """Schema of the `encoder` group; the presets are in `configs/encoder`.

    The metadata of a field gives its roles: "preset" if presets choose it, "training" if it affects training only, so
    that a run may differ in it from the checkpoint it starts from. Fields without a role are the size of the network.

    Attributes:
        num_mels: input bands.
        hop_ms: milliseconds between feature frames.
        subsampling_factor: feature frames per encoder frame.
        subsampling_padding: "aligned" or "shifted"; see `Subsampling`.
        subsampling_channels: channels of the subsampling convolutions.
        d_model: width.
        num_layers: number of Conformer layers.
        num_heads: attention heads, a divisor of `d_model`.
        ff_expansion: feed-forward width divided by `d_model`.
        left_context_ms: past visible to attention; None is unlimited.
        right_context_ms: future visible to attention; None is unlimited.
        style: "chunked", "regular", "delayed" or "buffered"; see `Context`.
        chunk_ms: audio of a chunk with `style=buffered`; None is the right context plus one encoder frame.
        contexts: named contexts, one of which training samples per batch. If empty, training uses the context above,
            which otherwise serves validation and, by default, inference.
        conv_kernel_size: taps of the depthwise convolutions, in encoder frames.
        conv_padding: "causal" or "symmetric".
        conv_norm: "layer_norm", "batch_norm" or "frozen_batch_norm".
        norms_per_mode: use a second set of norms in unlimited context (dual mode).
        bias: use biases in linear and convolution modules inside the layers.
        scale_input: multiply the subsampling output by sqrt(d_model).
        dropout: dropout rate inside the layers.
        dropout_input: dropout rate after subsampling.
        dropout_attention: dropout rate of attention weights.
        normalize: normalization of the input features, applied before the encoder; part of the latency contract.
        activation_checkpointing: in training, store only the input of each layer and recompute the rest in the backward
            pass: a third more arithmetic for a fraction of the memory.
        allow_future_leak: train even if a stage sees more of the future than the context allows.
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
    left_context_ms: float | None = preset_field(None)
    right_context_ms: float | None = preset_field(None)
    style: str = preset_field("chunked")
    chunk_ms: float | None = preset_field(None)
    contexts: dict[str, ContextChoice] = field(default_factory=dict, metadata={"roles": ("preset", "training")})
    conv_kernel_size: int = 9
    conv_padding: str = preset_field("causal")
    conv_norm: str = preset_field("layer_norm")
    norms_per_mode: bool = preset_field(False)
    bias: bool = True
    scale_input: bool = True
    dropout: float = training_field(0.1)
    dropout_input: float = training_field(0.1)
    dropout_attention: float = training_field(0.1)
    normalize: str = preset_field("global")
    activation_checkpointing: bool = training_field(False)
    allow_future_leak: bool = training_field(False)
