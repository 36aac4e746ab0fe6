"""Outputs of each layer of an encoder, aligned with the target frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from streamnest.encoder.encoder import FastConformer


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the first output of each module, in the order of execution, while the context is open."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(record).remove)
        yield outputs


def layer_outputs(encoder: FastConformer, features: Tensor, lengths: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Computes outputs of some layers, with gradients if enabled; frame t of each of them covers target frame t.

    Args:
        encoder: encoder in evaluation mode.
        features: normalized features `(B, num_mels, T)` with at least one frame.
        lengths: `(B,)` feature frames.
        layers: layers in ascending order; 0 is the output of the subsampling, n that of Conformer layer n.

    Returns:
        `(B, T', d_model)` of each layer. Frames past a row's last target frame are undefined.
    """
    modules = [encoder.subsampling, *encoder.layers]
    with recorded([modules[layer] for layer in layers]) as outputs:
        encoded, _ = encoder(features, lengths)
    # The outputs of the layers are read later by the delay of the context; those of the subsampling are not.
    starts = [encoder.target_shift + (encoder.context.delay if layer else 0) for layer in layers]
    # Copies of right context follow the frames of the utterance.
    return [x[:, start : encoded.shape[1] + encoder.context.delay] for x, start in zip(outputs, starts, strict=True)]
