"""Outputs of each layer of an encoder for one utterance, aligned with the input."""

from __future__ import annotations

import torch
from torch import Tensor

from streamnest.encoder.layer_outputs import layer_outputs
from streamnest.encoder_task import EncoderTask
from streamnest.streaming.long_forward import forward_in_windows
from streamnest.streaming.step import compact


def layer_frames(model: EncoderTask, audio: Tensor, left: int | None = None, step: int = 1) -> list[Tensor]:
    """Returns the input and all layer outputs for one utterance; frame t of each of them covers target span t.

    Args:
        model: encoder in evaluation mode.
        audio: `(N,)` samples; long ones are encoded in windows (`forward_in_windows`).
        left: limit of an unlimited left context for long audio, in encoder frames.
        step: frames to advance from one returned frame to the next.

    Returns:
        For T' whole target spans: the normalized log-mel frames of each span, `(T', factor * num_mels)`, as baseline;
        then the outputs of the subsampling and of each Conformer layer, `(T', d)` each. Every `step`-th of them.

    Raises:
        UserError: for long audio if outputs depend on all of it.
    """
    encoder, factor = model.encoder, model.encoder.subsampling.factor

    def encode(features: Tensor, frames: Tensor) -> list[Tensor]:
        count = int(frames) // factor
        spans = features[0].t()[: count * factor].reshape(1, count, -1)
        outputs = layer_outputs(encoder, features, frames, range(len(encoder.layers) + 1))
        return [spans, *(x[:, :count] for x in outputs)]

    windows, at = list[list[Tensor]](), 0
    for window in forward_in_windows(model, audio, encode, left):
        windows.append([compact(x[-at % step :: step]) for x in window])
        at += len(window[0])
    return [torch.cat(layer) for layer in zip(*windows, strict=True)]


def step_of(model: EncoderTask, audio: Tensor, most: int) -> int:
    """Returns the `step` with which `layer_frames` returns at most about `most` numbers."""
    encoder, frontend = model.encoder, model.frontend
    factor = encoder.subsampling.factor
    width = factor * frontend.num_mels + (len(encoder.layers) + 1) * encoder.d_model
    return max(1, -(-(len(audio) // (factor * frontend.hop) * width) // most))
