"""Offline forward pass of recordings of any length, in overlapping windows.

The encoder's own `forward` runs on each window. Frames whose receptive field is not inside the window are dropped, so
that the others equal those of one forward pass over the whole recording. Memory depends on the context of the encoder,
not on the length of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from streamnest.encoder import FastConformer
from streamnest.encoder.schedule import using_context
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.latency import last_visible_frame
from streamnest.samples import as_samples

# Longest audio in seconds for one offline forward pass. The memory of attention with unlimited context grows with the
# square of the length: some 65 GB for 30 minutes, a 225th of that for two minutes. With limited left context it grows
# with the length, but the frames of all layers remain. Training utterances are shorter.
FULL_FORWARD_S = 120.0

# Features `(1, num_mels, T)` and lengths `(1,)` to tensors `(1, T', ...)`, with one row for each encoder frame.
Encode = Callable[[Tensor, Tensor], Sequence[Tensor]]


class Margins(NamedTuple):
    """Encoder frames around a span of outputs on which these outputs depend, in whole chunks."""

    past: int
    future: int

    @classmethod
    def of(cls, encoder: FastConformer) -> Margins:
        """Computes the margins of an encoder in its current context, which must be limited on both sides."""
        context, convolution = encoder.context, encoder.layers[0].convolution
        assert context.left is not None and context.chunk is not None
        # Each layer sees the left context before its chunk. The subsampling sees less than two frames of past.
        past = len(encoder.layers) * (context.left + context.chunk - 1 + convolution.past) + 2
        last = [last_visible_frame(encoder, frame) or 0 for frame in range(context.chunk)]
        future = max(end - frame for frame, end in enumerate(last)) + encoder.target_shift
        return cls(*(-(-frames // context.chunk) * context.chunk for frames in (past, future)))


def is_long(model: EncoderTask, audio: Tensor) -> bool:
    """True if audio `(N,)` is too long for one forward pass."""
    return len(audio) > FULL_FORWARD_S * model.sample_rate


def require_windows(model: EncoderTask, seconds: float, name: str = "the recording") -> None:
    """Requires that a recording over `FULL_FORWARD_S` can be encoded in windows.

    Raises:
        UserError: with the name of the recording, if outputs depend on all of it.
    """
    if model.encoder.context.chunk is None or not model.input_norm.causal:
        cause = "encoder.normalize=utterance" if model.encoder.context.chunk else "encoder.right_context_ms=null"
        raise UserError(
            f"{name} is {seconds:.0f} s long, and the limit of a model that needs the whole utterance ({cause}) is "
            f"{FULL_FORWARD_S:g} s: split the file"
        )


@torch.no_grad()
def forward_in_windows(
    model: EncoderTask, audio: Tensor, encode: Encode | None = None, left: int | None = None
) -> Iterator[list[Tensor]]:
    """Encodes a recording window by window; audio up to `FULL_FORWARD_S` is one window.

    Args:
        model: model in evaluation mode.
        audio: `(N,)` at the model's rate.
        encode: outputs to compute; by default the frames of the encoder.
        left: limit of an unlimited left context in encoder frames, in whole chunks.

    Yields:
        For each span of encoder frames in turn, the outputs `(k, ...)` for them.

    Raises:
        UserError: for long audio if outputs depend on all of it.
    """
    encoder, audio = model.encoder, as_samples(audio)
    encode = encode or (lambda features, lengths: _frames(encoder, features, lengths))
    if not is_long(model, audio):
        lengths = torch.tensor([len(audio)], device=audio.device)
        features, frames = model.frontend(audio[None], lengths)
        yield [x[0] for x in encode(model.input_norm(features, frames), frames)]
        return
    seconds = len(audio) / model.sample_rate
    require_windows(model, seconds)
    context = encoder.context
    limited = replace(context, left=left) if context.left is None else context
    if limited.left is None:
        raise UserError(
            f"the recording is {seconds:.0f} s long, and the limit of an unlimited left context is "
            f"{FULL_FORWARD_S:g} s: limit the left context"
        )
    with using_context(encoder, limited):
        margins, factor, chunk = Margins.of(encoder), encoder.subsampling.factor, encoder.context.chunk or 1
        span = max(round(1000 * FULL_FORWARD_S / encoder.frame_ms) // chunk * chunk, margins.past)
        features = _Features(model, audio)
        total = int(encoder.subsampling.num_frames(torch.tensor(features.total)))
        for first in range(0, total, span):
            start, end = max(0, first - margins.past), min(total, first + span + margins.future)
            window = features.between(factor * start, factor * end)
            outputs = encode(window, torch.tensor([window.shape[-1]], device=window.device))
            yield [x[0, first - start : first - start + span] for x in outputs]


class _Features:
    """Normalized features of a recording, computed once from its start to its end; `between` must move forward."""

    def __init__(self, model: EncoderTask, audio: Tensor) -> None:
        self._model, self._audio = model, audio
        self.total = len(audio) // model.frontend.hop
        self._norm = model.input_norm.init_state(1)
        self._first, self._held = 0, audio.new_zeros(1, model.frontend.num_mels, 0)

    def between(self, start: int, end: int) -> Tensor:
        """Returns features `(1, num_mels, T)` from frame `start` to `end`, which may be past the last frame."""
        known, end = self._first + self._held.shape[-1], min(end, self.total)
        features, self._norm = self._model.input_norm.step(self._log_mel(known, end), None, self._norm)
        self._held = torch.cat([self._held[..., start - self._first :], features], dim=-1)
        self._first = start
        return self._held

    def _log_mel(self, start: int, end: int) -> Tensor:
        frontend = self._model.frontend
        # Half a window before and after the first and last frame, and the sample before that for pre-emphasis.
        margin = len(frontend.window) // frontend.hop + 1
        begin = max(0, start - margin)
        audio = self._audio[None, begin * frontend.hop : (end + margin) * frontend.hop]
        features, _ = frontend(audio, torch.tensor([audio.shape[1]], device=audio.device))
        return features[..., start - begin : end - begin]


def _frames(encoder: FastConformer, features: Tensor, lengths: Tensor) -> list[Tensor]:
    encoded, valid = encoder(features, lengths)
    return [encoded[:, : int(valid)]]
