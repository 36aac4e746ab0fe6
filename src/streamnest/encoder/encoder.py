"""The encoder: subsampling, positions, attention masks, layers; and its streaming step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.encoder.attention import AttentionState, RelativeAttention, relative_positions
from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.context import Context, ContextChoices
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.copies import Copies, copy_masks, make_copies
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.dual_mode import OfflineNorms
from streamnest.encoder.layer import ConformerLayer, LayerState
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS, EncoderState, trim
from streamnest.encoder.subsampling import Subsampling
from streamnest.encoder.windows import Windows, choose_windows
from streamnest.errors import UserError

# Longest cap of an unlimited left context: a stream reserves memory for all of it.
_LONGEST_LEFT_MS = 3_600_000.0


class _Masks(NamedTuple):
    """Attention mask and valid frames `(B, T, 1)` of a layer; None if nothing is masked.

    The mask is `(B, 1, Tq, Tk)`, or `(B, N, 1, group, keys)` with `Windows`; with `Copies`, see `copy_masks`.
    """

    mask: Tensor | None
    valid: Tensor | None


class FastConformer(nn.Module):
    """FastConformer (Rekesh et al. 2023) with limited context, `(B, num_mels, T)` -> `(B, T', d_model)`.

    Stride: `subsampling_factor` feature frames, `frame_ms` milliseconds. Look-ahead: computed in `streamnest.latency`.
    Padding and the other rows of a batch have no effect; output frames past a row's length are undefined.

    Args:
        config: sizes, context and the choices that make a preset.

    Raises:
        UserError: if a context is not a whole number of frames, or sizes do not match.

    Attributes:
        is_offline: True inside `offline`.
    """

    is_offline = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = config
        if c.d_model % c.num_heads or c.d_model % 2:
            raise UserError(f"size.d_model={c.d_model} must be even and a multiple of size.num_heads={c.num_heads}")
        self.num_mels, self.d_model, self.frame_ms = c.num_mels, c.d_model, c.hop_ms * c.subsampling_factor
        self.normalize, self.allow_future_leak = c.normalize, c.allow_future_leak
        limits = c.left_context_ms, c.right_context_ms
        self.default_context = Context.from_ms(*limits, self.frame_ms, c.style, c.chunk_ms)
        self.context, self.choices = self.default_context, ContextChoices(c.contexts, self.frame_ms, c.style)
        self.activation_checkpointing = c.activation_checkpointing
        self.scale = math.sqrt(c.d_model) if c.scale_input else 1.0
        self.subsampling = Subsampling(
            c.num_mels, c.subsampling_factor, c.subsampling_channels, c.d_model, c.subsampling_padding
        )
        self.dropout = Dropout(c.dropout_input)
        self.layers: Sequence[ConformerLayer] = nn.ModuleList(  # type: ignore[assignment]
            _layer(c) for _ in range(c.num_layers)
        )
        if c.style == "buffered" and (c.conv_padding != "causal" or not self.layers[0].convolution.norm_is_framewise):
            raise UserError(
                f"encoder.style=buffered does not support encoder.conv_padding={c.conv_padding} with encoder.conv_norm="
                f"{c.conv_norm}: choose conv_padding=causal, and conv_norm=layer_norm or frozen_batch_norm"
            )

    @classmethod
    def build(cls, **settings: Any) -> FastConformer:
        """Builds an encoder from the fields of `EncoderConfig` as keywords."""
        return cls(EncoderConfig(**settings))

    def use_context(self, name: str | None) -> None:
        """Switches to one of `choices`; None is the default context."""
        self.context = self.default_context if name is None else self.choices[name]

    @property
    def context_name(self) -> str | None:
        """Name of the context in use; None for an encoder with one context."""
        return next((name for name, context in self.choices.by_name.items() if context == self.context), None)

    def sample_context(self, number: int) -> None:
        """Switches to a random context, a function of the number; does nothing if there is one context only."""
        if self.choices.by_name:
            self.context = self.choices.sample(number)

    def each_context(self) -> Iterator[str | None]:
        """Switches to each context in turn and yields its name; restores the default context at the end."""
        try:
            for name in self.choices.by_name or (None,):
                self.use_context(name)
                yield name
        finally:
            self.use_context(None)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Encodes whole utterances in unlimited context while open: the offline branch of dual mode.

        Convolutions stay as they are. Restores the current context at the end.
        """
        context, self.context, self.is_offline = self.context, Context(), True
        try:
            yield
        finally:
            self.context, self.is_offline = context, False

    def train_offline_norms(self) -> None:
        """Makes the norms of the offline mode trainable, if there are any."""
        for layer in self.layers:
            if layer.offline_norms is not None:
                layer.offline_norms.requires_grad_(True)

    @property
    def target_shift(self) -> int:
        """Encoder frames between target frame t and the output that covers it: 0, or 1 with shifted subsampling."""
        return -(self.subsampling.lookahead // self.subsampling.factor)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes whole utterances.

        Args:
            features: `(B, num_mels, T)`; frames past each row's length are ignored.
            lengths: `(B,)` feature frames.

        Returns:
            `(B, T', d_model)` and valid encoder frames `(B,)`.
        """
        if not features.shape[-1]:
            return features.new_zeros(len(features), 0, self.d_model), torch.zeros_like(lengths)
        inside = torch.arange(features.shape[-1], device=features.device) < lengths[:, None]
        delay = self.context.delay
        features = F.pad(self._checked(features) * inside[:, None], (0, delay * self.subsampling.factor))
        lengths = lengths + delay * self.subsampling.factor
        x, _ = self.subsampling(features, lengths)
        lengths = self.subsampling.num_frames(lengths)
        frames = x.shape[1]
        windows = self._windows(frames, 0)
        if copies := make_copies(self.context, frames, windows):
            x = copies.arrange(F.pad(x, (0, 0, 0, copies.frames + copies.right - frames)))
            masks = _Masks(*copy_masks(copies, lengths.new_zeros(1), 0, self.context.left, lengths))
        else:
            time = torch.arange(frames, device=x.device)[None]
            masks = _masks(self.context, time, time, lengths, windows)
        x, _ = self._run_layers(x, [masks], None, windows, copies)
        # Shifted subsampling outputs one frame before any audio, also for an utterance without feature frames.
        return x[:, delay:frames], (lengths - delay) * inside.any(1)

    @property
    def warmup(self) -> int:
        """Encoder frames at the start of a stream that belong to no audio; streams drop them."""
        if copies := make_copies(self.context, self.context.ahead, None):
            return copies.frames
        return self.context.delay + self.context.lag * len(self.layers)

    @property
    def chunk(self) -> int:
        """Encoder frames of one streaming step.

        Raises:
            UserError: if no output can be emitted before the utterance ends.
        """
        context, convolution = self.context, self.layers[0].convolution
        if context.chunk is None:
            raise UserError("this encoder cannot stream: give encoder.right_context_ms")
        if convolution.lookahead or not convolution.norm_is_framewise:
            raise UserError(
                "this encoder cannot stream: it needs encoder.conv_padding=causal, and encoder.conv_norm=layer_norm or "
                "frozen_batch_norm"
            )
        return context.chunk

    @property
    def first_features(self) -> int:
        """Feature frames needed to emit the first chunk of a stream; later chunks need `chunk * factor` each."""
        waiting = self.context.ahead or self.warmup
        return (waiting + self.chunk) * self.subsampling.factor + self.subsampling.lookahead

    def left_frames(self, max_left_ms: float = STREAM_LEFT_MS) -> int:
        """Encoder frames of past that a stream keeps: the left context, or the cap of an unlimited one.

        Raises:
            UserError: for a cap below one chunk or over an hour.
        """
        if self.context.left is not None:
            return self.context.left
        chunk_ms = self.chunk * self.frame_ms
        if not chunk_ms <= max_left_ms <= _LONGEST_LEFT_MS:
            raise UserError(
                f"max_left_ms={max_left_ms:g} must be from {chunk_ms:g} (one chunk of this encoder) to "
                f"{_LONGEST_LEFT_MS:.0f}"
            )
        return int(max_left_ms / self.frame_ms) // self.chunk * self.chunk

    def init_state(self, batch: int, max_left_ms: float = STREAM_LEFT_MS) -> EncoderState:
        """Creates the state of `batch` streams before their first frame.

        Args:
            batch: number of streams.
            max_left_ms: cap of an unlimited left context, rounded down to whole chunks. Attention in longer streams
                sees a sliding window, and outputs differ from `forward`. Limited contexts ignore it.

        Raises:
            UserError: if the context cannot stream.
        """
        left = self.left_frames(max_left_ms)
        weight, layer, lag = self.subsampling.out.weight, self.layers[0], self.context.lag
        heads, d_head = layer.attention.num_heads, layer.attention.d_head
        past = weight.new_zeros(batch, left + lag, 2, heads, d_head)
        convolved = weight.new_zeros(batch, layer.convolution.past, self.d_model)
        queries = (weight.new_zeros(batch, heads, lag, d_head),) if lag else ()
        waiting = (weight.new_zeros(batch, lag, self.d_model),) if lag else ()
        layers = tuple(LayerState(AttentionState(past, queries), convolved, waiting) for _ in self.layers)
        none = torch.zeros(batch, dtype=torch.long, device=weight.device)
        # Frames before the stream take the place of those that are encoded again.
        again = (weight.new_zeros(batch, self.warmup, self.d_model),) if self.context.ahead else ()
        return EncoderState((*self.subsampling.init_state(batch), *again), layers, none, none)

    def step(self, features: Tensor, state: EncoderState, lengths: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        """Encodes the next chunks of streams, with the arithmetic of `forward`.

        Args:
            features: `(B, num_mels, T)`; T is `first_features` in the first call, then a multiple of
                `chunk * subsampling_factor`.
            state: state from `init_state` or the previous step.
            lengths: `(B,)` feature frames in each whole stream, for streams that end; frames past it are ignored.

        Returns:
            `(B, n * chunk, d_model)` and the next state. The first `warmup` frames of a stream belong to no audio.
        """
        position, context, count = state.num_features, self.context, features.shape[-1]
        end = torch.full_like(position, OPEN_END) if lengths is None else lengths
        inside = _all_true(position >= 0 if lengths is None else (position >= 0) & (position + count <= end))
        total = end + context.delay * self.subsampling.factor
        if not inside:
            time = position[:, None] + torch.arange(count, device=position.device)
            features = features * ((time >= 0) & (time < end[:, None]))[:, None]
        x, subsampling = self.subsampling(
            self._checked(features), None if inside else total, state.subsampling, position
        )
        cached, frames = state.layers[0].attention.past.shape[1], x.shape[1]
        if context.ahead:
            x = torch.cat([state.subsampling[-1].to(x.dtype), x], dim=1)
            frames = x.shape[1] - context.ahead
            subsampling = (*subsampling, x.narrow(1, frames, context.ahead))
        windows = self._windows(frames, cached)
        if copies := make_copies(context, frames, windows):
            x = copies.arrange(x)
        masks = self._step_masks(state.position, cached, frames, total, inside, windows, copies)
        x, layers = self._run_layers(x, masks, state.layers, windows, copies)
        trimmed = tuple(trim(layer, cached, x.shape[1] - frames) for layer in layers)
        return x[:, :frames], EncoderState(subsampling, trimmed, position + count, state.position + frames)

    def _windows(self, frames: int, cached: int) -> Windows | None:
        context = self._capped(cached) if cached else self.context
        return choose_windows(context, frames, cached, self.layers[0].attention.d_head)

    def _capped(self, cached: int) -> Context:
        """Context of a stream: the cap of an unlimited left context applies to each frame, however long a step is."""
        cap, left = cached - self.context.lag, self.context.left
        # A state that serves several contexts keeps the past of the longest.
        return replace(self.context, left=cap if left is None else min(left, cap))

    def _step_masks(
        self,
        position: Tensor,
        cached: int,
        frames: int,
        total: Tensor,
        inside: bool,
        windows: Windows | None,
        copies: Copies | None,
    ) -> list[_Masks]:
        """Masks of each layer, or one for all layers, in streams of `total` feature frames."""
        # If frames wait for their future, each layer is `lag` frames behind the one below.
        lags = range(len(self.layers) if self.context.lag else 1)
        starts = [position - n * self.context.lag - (self.warmup if copies else 0) for n in lags]
        context = self._capped(cached)
        sees_all = context.left == cached - context.lag and frames == context.chunk
        # Most steps need no mask: one chunk, between the start and the end of its stream, with all of its past filled.
        if inside and sees_all and _all_true(starts[-1] >= cached):
            return [_Masks(None, None)]
        lengths, masks = self.subsampling.num_frames(total), []
        if copies:
            return [_Masks(*copy_masks(copies, starts[0], cached, context.left, lengths))]
        for start in starts:
            keys = start[:, None] + torch.arange(-cached, frames, device=position.device)
            queries = keys[:, cached - self.context.lag : cached - self.context.lag + frames]
            masks.append(_masks(context, queries, keys, lengths, windows))
        return masks

    def _run_layers(
        self,
        x: Tensor,
        masks: list[_Masks],
        states: tuple[LayerState, ...] | None,
        windows: Windows | None,
        copies: Copies | None,
    ) -> tuple[Tensor, list[LayerState]]:
        x = self.dropout(x * self.scale)
        queries = copies.frames + copies.right if copies else x.shape[1]
        keys = queries + (states[0].attention.past.shape[1] if states else 0)
        lag = self.context.lag if states else 0
        if windows:
            again = copies.right if copies else 0
            queries, keys, lag = windows.group + again, windows.keys + again, windows.after
        positions = relative_positions(queries, keys, self.d_model, x, lag)
        after, offline = [], self.context.unlimited
        for index, layer in enumerate(self.layers):
            mask, valid = masks[min(index, len(masks) - 1)]
            before = states[index] if states else None
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                # Without a state before, the state after the layer is not returned: it would be kept for nothing.
                run: Any = layer if states else partial(_output_only, layer)
                inputs = (x, positions, mask, valid, before, windows, copies, offline)
                x, state = checkpoint(run, *inputs, use_reentrant=False)
            else:
                x, state = layer(x, positions, mask, valid, before, windows, copies, offline)
            after.append(state)
        return x, after

    def _checked(self, features: Tensor) -> Tensor:
        if features.ndim != 3 or features.shape[1] != self.num_mels:
            raise UserError(f"the encoder takes (B, {self.num_mels}, T) features, got {tuple(features.shape)}")
        return features


def _layer(c: EncoderConfig) -> ConformerLayer:
    attention = RelativeAttention(c.d_model, c.num_heads, c.dropout_attention, c.bias)
    convolution = ConvolutionModule(c.d_model, c.conv_kernel_size, c.conv_padding, c.conv_norm, c.bias)
    layer = ConformerLayer(c.d_model, c.ff_expansion * c.d_model, attention, convolution, c.dropout, c.bias)
    if c.norms_per_mode:
        layer.offline_norms = OfflineNorms(layer)
    return layer


def _masks(context: Context, queries: Tensor, keys: Tensor, lengths: Tensor, windows: Windows | None) -> _Masks:
    """Masks of a layer.

    Args:
        context: context of the attention.
        queries: frame numbers `(B or 1, Tq)`.
        keys: frame numbers `(B or 1, Tk)`.
        lengths: frames of each row, `(B,)`.
        windows: division of the queries into groups.
    """
    valid = _inside(queries, lengths)
    if windows is None:
        mask = context.visible(queries, keys) & _inside(keys, lengths)[:, None, :] & valid[:, :, None]
        return _Masks(mask[:, None], valid[..., None])
    grouped, windowed = windows.queries(queries, -1), windows.windows(keys, queries.shape[1], -1)
    lengths = lengths[:, None]
    ends = _inside(windowed, lengths)[..., None, :] & _inside(grouped, lengths)[..., None]
    return _Masks((context.visible(grouped, windowed) & ends)[:, :, None], valid[..., None])


def _inside(frames: Tensor, lengths: Tensor) -> Tensor:
    return (frames >= 0) & (frames < lengths.unsqueeze(-1))


def _all_true(condition: Tensor) -> bool:
    """True if all rows satisfy the condition and reading it is free; a step then skips masks that mask nothing.

    It is not free while tracing a graph, which cannot branch on values, and on devices that would have to synchronize.
    """
    graph = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return not graph and condition.device.type == "cpu" and bool(condition.all())


def _output_only(layer: ConformerLayer, *inputs: Any) -> tuple[Tensor, None]:
    return layer(*inputs)[0], None
