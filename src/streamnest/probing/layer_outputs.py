"""Outputs of each layer of an encoder for one utterance, aligned with the input."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder.layer_outputs import layer_outputs
from streamnest.encoder_task import EncoderTask


@torch.no_grad()
def layer_frames(model: EncoderTask, audio: Tensor) -> list[Tensor]:
    """Returns the input and all layer outputs for one utterance; frame t of each of them covers target span t.

    Args:
        model: encoder in evaluation mode.
        audio: `(N,)` samples.

    Returns:
        For T' whole target spans: the normalized log-mel frames of each span, `(T', factor * num_mels)`, as baseline;
        then the outputs of the subsampling and of each Conformer layer, `(T', d)` each.
    """
    lengths = torch.tensor([len(audio)], device=audio.device)
    features, frames = model.frontend(audio[None], lengths)
    features = model.input_norm(features, frames)
    encoder, factor = model.encoder, model.encoder.subsampling.factor
    count = int(frames) // factor
    spans = features[0].t()[: count * factor].reshape(count, -1)
    outputs = layer_outputs(encoder, features, frames, range(len(encoder.layers) + 1))
    return [spans, *(x[0, :count] for x in outputs)]
