"""What each layer of an encoder says about each frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.encoder_task import EncoderTask


@contextmanager
def recorded(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the first output of each module, in the order in which they run, until the block ends."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(record).remove)
        yield outputs


@torch.no_grad()
def layer_frames(model: EncoderTask, audio: Tensor) -> list[Tensor]:
    """What the encoder hears and says of one utterance, frame t of each standing for block t, which it has heard.

    Args:
        model: in evaluation mode.
        audio: `(N,)` samples.

    Returns:
        For T' whole blocks: the block of normalised log-mel frames itself, `(T', factor * num_mels)`, for comparison;
        then the outputs of the stem and of each block of the encoder, `(T', d)` each.
    """
    lengths = torch.tensor([len(audio)], device=audio.device)
    features, frames = model.frontend(audio[None], lengths)
    features = model.input_norm(features, frames)
    encoder, factor = model.encoder, model.encoder.subsampling.factor
    with recorded([encoder.subsampling, *encoder.layers]) as outputs:
        encoder(features, frames)
    count = int(frames) // factor
    blocks = features[0].t()[: count * factor].reshape(count, -1)
    # A delay lets the blocks of the encoder hear more before they are read; the stem hears no more for it.
    late = [encoder.target_shift, *(encoder.target_shift + encoder.context.delay for _ in encoder.layers)]
    return [blocks, *(x[0, first : first + count] for x, first in zip(outputs, late, strict=True))]
