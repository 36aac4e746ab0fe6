"""Outputs of each layer of an encoder, aligned with the input."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder.recording import recorded
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
    with recorded([encoder.subsampling, *encoder.layers]) as outputs:
        encoder(features, frames)
    count = int(frames) // factor
    spans = features[0].t()[: count * factor].reshape(count, -1)
    # The outputs of the layers are read later by the delay of the context; those of the subsampling are not.
    starts = [encoder.target_shift, *(encoder.target_shift + encoder.context.delay for _ in encoder.layers)]
    return [spans, *(x[0, start : start + count] for x, start in zip(outputs, starts, strict=True))]
