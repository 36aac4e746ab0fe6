"""The streaming step as a module for the ONNX exporter: audio window and state in, frames and next state out.

The module computes `step` for one chunk of fixed size. The first chunk of a stream differs only in its initial values:
the window begins with zeros, and the frame count is negative if the first chunk needs fewer feature frames than others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.encoder.attention import FINITE_MASKED
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.frontend import FrontendState, LogMel
from streamnest.streaming.session import StreamingSession
from streamnest.streaming.step import StreamState, init_state, step

HEAD_MEMORY = "head_memory"


class MatrixLogMel(LogMel):
    """Log-mel front end whose DFT is a matrix product, which every runtime supports; as exact as the FFT.

    Args:
        frontend: front end with the same settings.
    """

    dft: Tensor

    def __init__(self, frontend: LogMel) -> None:
        window_ms = 1000.0 * len(frontend.window) / frontend.sample_rate
        sizes = (frontend.sample_rate, frontend.num_mels, window_ms, frontend.hop_ms, frontend.n_fft)
        super().__init__(*sizes, frontend.preemphasis, frontend.dither, frontend.kind)
        self.window, self.filterbank = frontend.window, frontend.filterbank
        time = torch.arange(len(self.window), dtype=torch.float64)[:, None]
        angle = 2 * math.pi / self.n_fft * (time * torch.arange(self.n_fft // 2 + 1) % self.n_fft)
        waves = self.window.double()[:, None] * torch.cat([angle.cos(), angle.sin()], dim=1)
        self.register_buffer("dft", waves.to(self.window.dtype), persistent=False)

    def from_frames(self, frames: Tensor) -> Tensor:
        """Computes log-mel features of frames, as `LogMel.from_frames`."""
        real, imaginary = (frames @ self.dft).chunk(2, dim=-1)
        return self.logarithm((real.square() + imaginary.square()) @ self.filterbank)


class ExportedStep(nn.Module):
    """Step of one chunk for a batch of streams, whose state is a flat list of tensors.

    Audio `(B, window_samples)`, ends `(B,)` and the state -> frames `(B, chunk, d)`, the next state, and the output of
    the head if the task has one.

    Args:
        model: model to export; a copy is used.
        max_left_ms: cap of an unlimited left context, see `FastConformer.init_state`.

    Raises:
        UserError: for models that cannot stream.
    """

    def __init__(self, model: EncoderTask, max_left_ms: float = STREAM_LEFT_MS) -> None:
        super().__init__()
        session = StreamingSession(model, max_left_ms)  # raises for models that cannot stream
        self.model = copy.deepcopy(model).float().cpu().eval()
        self.model.frontend = MatrixLogMel(self.model.frontend)
        for layer in self.model.encoder.layers:
            layer.attention.masked_score = FINITE_MASKED
        frontend, encoder = model.frontend, model.encoder
        features = encoder.chunk * encoder.subsampling.factor
        # Warm-up frames are ordinary chunks of the graph; the program that runs it drops them. Its first chunk may need
        # fewer feature frames than others, and then begins with features before the stream.
        self.missing = encoder.warmup * encoder.subsampling.factor + features - encoder.first_features
        warmup = encoder.warmup * encoder.subsampling.factor * frontend.hop
        self.window_samples = (features - 1) * frontend.hop + len(frontend.window) + 1
        self.chunk_samples, self.first_samples = session.chunk_samples, session.first_samples - warmup
        self.initial_zeros = self.window_samples - self.first_samples
        self.head = self.model.exported_head()
        self.eval()
        self._init_carried(init_state(self.model, 1, max_left_ms))

    def _init_carried(self, state: StreamState) -> None:
        """Finds the tensors that a step changes, their shapes after the first step, and their initial values."""
        _, first = step(self.model, torch.zeros(1, self.first_samples), state)
        _, second = step(self.model, torch.zeros(1, self.chunk_samples), first)
        self.template = second
        initial, before, after = (named(s) for s in (state, first, second))
        self.carried = [name for name in after if after[name] is not before[name]]
        # Some caches are longer before the first step; they are constant then, so that their last part suffices.
        self.initial = {name: _last(initial[name], after[name].shape) for name in initial}
        for name in self.carried:
            if name in ("num_features", "norm_frames"):
                self.initial[name] = self.initial[name] - self.missing
        if self.head and self.head.memory_size:
            self.initial[HEAD_MEMORY] = torch.zeros(1, self.head.memory_size)
            self.carried.append(HEAD_MEMORY)

    def forward(self, window: Tensor, end: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Computes one step.

        Args:
            window: `(B, window_samples)`, the samples of this chunk after those that overlap with the previous window.
            end: `(B,)` total samples of each stream that has ended, `OPEN_END` for others.
            state: the tensors named in `carried`, from the previous step.
        """
        values = {**self.initial, **dict(zip(self.carried, state, strict=True))}
        tensors = iter(values.values())
        norm, encoder = rebuild(self.template.norm, tensors), rebuild(self.template.encoder, tensors)
        window = self._with_start(window, encoder.num_features)
        position = encoder.num_features * self.model.frontend.hop - self.model.frontend.past
        frontend = FrontendState(window[:, :1], window[:, :0], position, encoder.num_features)
        encoded, after = step(self.model, window[:, 1:], StreamState(frontend, norm, encoder), end)
        tensors_after = named(after)
        if self.head is None:
            return encoded, *(tensors_after[name] for name in self.carried)
        outputs, tensors_after[HEAD_MEMORY] = self.head(encoded, self._valid(encoder.position), values.get(HEAD_MEMORY))
        return encoded, *(tensors_after[name] for name in self.carried), outputs

    def _with_start(self, window: Tensor, num_features: Tensor) -> Tensor:
        """Replaces the zeros before a stream in its first window by what the front end defines."""
        frontend, start = self.model.frontend, self.initial_zeros
        if frontend.kind == "nest":
            return window
        first, last = start - frontend.past, start + frontend.past
        reflected = window[:, start:last].flip(1)
        before = torch.where((num_features <= 0)[:, None], reflected, window[:, first:start])
        return torch.cat([window[:, :first], before, window[:, start:]], dim=1)

    def _valid(self, position: Tensor) -> Tensor | None:
        """Marks the frames of a step after the warm-up `(B, chunk)`, for streams at frame `position` `(B,)`."""
        warmup, chunk = self.model.encoder.warmup, self.model.encoder.chunk
        return position[:, None] + torch.arange(chunk) >= warmup if warmup else None

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Returns inputs for the first step of `batch` streams of silence."""
        state = [self.initial[name].expand(batch, *self.initial[name].shape[1:]).clone() for name in self.carried]
        return torch.zeros(batch, self.window_samples), torch.full((batch,), OPEN_END), *state


def named(state: StreamState) -> dict[str, Tensor]:
    """Returns tensors by name, without those of the front end, which follow from the window and the frame count."""
    return dict([*_flatten(state.norm, "norm"), *_flatten(state.encoder)])


def _flatten(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields names and tensors of nested tuples, such as `layers_0_attention_past`."""
    if isinstance(state, Tensor):
        yield name, state
        return
    labels = getattr(state, "_fields", range(len(state)))
    for label, part in zip(labels, state, strict=True):
        yield from _flatten(part, f"{name}_{label}" if name else str(label))


def rebuild(template: Any, tensors: Iterator[Tensor]) -> Any:
    """Returns a state with the structure of `template` and the next tensors, in the order of `named`."""
    if isinstance(template, Tensor):
        return next(tensors)
    parts = [rebuild(part, tensors) for part in template]
    return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)


def _last(x: Tensor, shape: torch.Size) -> Tensor:
    for dim, size in enumerate(shape):
        x = x.narrow(dim, x.shape[dim] - size, size)
    return x
