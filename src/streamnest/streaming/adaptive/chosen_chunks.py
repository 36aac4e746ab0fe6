"""Offline forward pass with the chunks that streams have chosen, and its comparison with the streamed frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from streamnest.encoder.schedule import Chunk, Schedule, using_context
from streamnest.encoder_task import EncoderTask
from streamnest.samples import as_samples
from streamnest.streaming.comparison import TOLERANCE, Comparison, frame_differences
from streamnest.streaming.long_forward import FULL_FORWARD_S, is_long


@torch.no_grad()
def forward_with_chunks(
    model: EncoderTask, audio: Tensor, lengths: Tensor, rows: Sequence[Sequence[Chunk]]
) -> tuple[Tensor, Tensor]:
    """Encodes whole utterances in which each row has chunks of its own.

    Args:
        model: model in evaluation mode with `encoder.style=chunked`.
        audio: `(B, N)`.
        lengths: `(B,)` samples of each row.
        rows: chunks of each row, such as `History.chunks`, which cover all of its frames.

    Returns:
        `(B, T', d)` and valid encoder frames `(B,)`.
    """
    with using_context(model.encoder, Schedule.of(rows)):
        encoded, valid = model(audio, lengths)
    return encoded, valid


def compare_with_chunks(
    model: EncoderTask, audio: Tensor, streamed: Tensor, chunks: Sequence[Chunk], tolerance: float = TOLERANCE
) -> Comparison:
    """Compares streamed frames with an offline forward pass with the same chunks.

    If a recording is longer than `FULL_FORWARD_S`, the whole chunks in that time are compared.

    Args:
        model: model in evaluation mode.
        audio: `(N,)` at the model's rate.
        streamed: frames `(T', d)` that a session has emitted for this audio.
        chunks: chunks that the session has chosen.
        tolerance: largest difference allowed.
    """
    audio = as_samples(audio).to(streamed.device)
    long = is_long(model, audio)
    if long:
        chunks = _within(chunks, round(1000 * FULL_FORWARD_S / model.encoder.frame_ms))
        frames = sum(chunk.frames for chunk in chunks)
        with using_context(model.encoder, Chunk.of(frames, 0)):
            needed = model.encoder.first_features * model.frontend.hop + model.frontend.overhang
        audio, streamed = audio[:needed], streamed[:frames]
    encoded, valid = forward_with_chunks(model, audio[None], torch.tensor([len(audio)], device=audio.device), [chunks])
    offline = encoded[0, : len(streamed) if long else int(valid)]
    if len(offline) != len(streamed):
        return Comparison.of_lengths(len(offline), len(streamed), tolerance)
    return Comparison.of(frame_differences(offline, streamed), tolerance)


def _within(chunks: Sequence[Chunk], frames: int) -> list[Chunk]:
    """Returns the first chunks, as many as fit into a number of frames."""
    kept = list[Chunk]()
    for chunk in chunks:
        frames -= chunk.frames
        if frames < 0:
            break
        kept.append(chunk)
    return kept
