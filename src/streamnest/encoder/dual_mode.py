"""Dual mode (Yu et al. 2021): norms of the offline mode, and the encoders and delays that it can be used with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

from streamnest.errors import UserError

if TYPE_CHECKING:
    from streamnest.encoder.encoder import FastConformer
    from streamnest.encoder.layer import ConformerLayer

# Module that the norm is copied from, by the name of the norm.
_SOURCES = {
    "norm_in": "norm_in",
    "norm_attention": "norm_attention",
    "norm_convolution": "norm_convolution",
    "norm_depthwise": "convolution.norm",
    "norm_ff_out": "norm_ff_out",
    "norm_out": "norm_out",
}


class OfflineNorms(nn.Module):
    """Copies of the norms of a Conformer layer, for its forward pass in unlimited context (Yu et al. 2021).

    They are frozen until a task with an offline branch trains them (`FastConformer.train_offline_norms`). Streams never
    use them.

    Args:
        layer: layer whose norms are copied.
    """

    def __init__(self, layer: ConformerLayer) -> None:
        super().__init__()
        for name, source in _SOURCES.items():
            self.add_module(name, copy.deepcopy(layer.get_submodule(source)).requires_grad_(False))


def streaming_name(name: str) -> str | None:
    """Returns the name of the streaming tensor that an offline one is copied from; None for all other tensors.

    Args:
        name: name of a tensor in a state dict, such as `encoder.layers.0.offline_norms.norm_in.weight`.
    """
    layer, _, rest = name.partition(".offline_norms.")
    norm, _, tensor = rest.partition(".")
    return f"{layer}.{_SOURCES[norm]}.{tensor}" if norm in _SOURCES else None


def check_dual_mode(encoder: FastConformer, offline_weight: float, delay_ms: float) -> int:
    """Checks that an encoder can be trained in two modes, and returns the delay of the targets in encoder frames.

    Args:
        encoder: encoder to train.
        offline_weight: weight of the loss of the offline branch.
        delay_ms: delay of its outputs as targets.

    Raises:
        UserError: for an encoder that does not stream, norms of the offline mode that would not be trained or would be
            used by a streaming branch, and a delay that is not a whole number of frames.
    """
    if encoder.default_context.right is None:
        raise UserError(
            "task.dual_mode trains a streaming encoder beside the offline one, and this encoder sees the whole "
            "utterance: choose a streaming preset such as encoder=lookahead80"
        )
    if encoder.layers[0].offline_norms is not None:
        if offline_weight <= 0:
            raise UserError(
                "encoder.norms_per_mode=true needs task.dual_mode.offline_weight above 0, whose loss trains the norms "
                "of the offline mode"
            )
        if shared := [name for name in encoder.choices.sampled if encoder.choices[name].unlimited]:
            raise UserError(
                f"encoder.contexts.{shared[0]} is the offline mode, which has norms of its own and is trained in every "
                f"batch: set encoder.contexts.{shared[0]}.weight=0"
            )
    return delay_frames("task.dual_mode.delay_ms", delay_ms, encoder.frame_ms)


def delay_frames(key: str, delay_ms: float, frame_ms: float) -> int:
    """Converts the delay that a config key gives to encoder frames.

    Raises:
        UserError: for a delay that is not a whole number of frames, with the nearest legal values.
    """
    frames = round(delay_ms / frame_ms)
    if abs(frames * frame_ms - delay_ms) > 1e-6:
        low = int(delay_ms / frame_ms) * frame_ms
        raise UserError(
            f"{key}={delay_ms:g} is not a whole number of frames of {frame_ms:g} ms: the nearest legal values are "
            f"{low:g} and {low + frame_ms:g}"
        )
    return frames
