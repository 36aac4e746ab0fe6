"""The encoder: subsampling, positions, attention masks, layers; and its streaming step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.encoder.attention import AttentionState, RelativeAttention, relative_positions
from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.context import Context
from streamnest.encoder.contextual import ContextualEncoder
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.copies import Copies, make_copies
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.dual_mode import OfflineNorms
from streamnest.encoder.layer import ConformerLayer, LayerState
from streamnest.encoder.masks import LayerMasks, all_true, step_masks, utterance_masks
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS, EncoderState, trim
from streamnest.encoder.subsampling import Subsampling
from streamnest.encoder.windows import Windows, choose_windows
from streamnest.errors import UserError


class FastConformer(ContextualEncoder):
    """FastConformer (Rekesh et al. 2023) with limited context, `(B, num_mels, T)` -> `(B, T', d_model)`.

    Stride: `subsampling_factor` feature frames, `frame_ms` milliseconds. Look-ahead: computed in `streamnest.latency`.
    Padding and the other rows of a batch have no effect; output frames past a row's length are undefined.

    Args:
        config: sizes, context and the choices that make a preset.

    Raises:
        UserError: if a context is not a whole number of frames, or sizes do not match.
    """

    def __init__(self, config: EncoderConfig) -> None:
        c = config
        if c.d_model % c.num_heads or c.d_model % 2:
            raise UserError(f"size.d_model={c.d_model} must be even and a multiple of size.num_heads={c.num_heads}")
        super().__init__(c)
        self.num_mels, self.d_model = c.num_mels, c.d_model
        self.normalize, self.allow_future_leak = c.normalize, c.allow_future_leak
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

    def train_offline_norms(self) -> None:
        """Makes the norms of the offline mode trainable, if there are any."""
        for layer in self.layers:
            if layer.offline_norms is not None:
                layer.offline_norms.requires_grad_(True)

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
        masks = utterance_masks(self.context, frames, lengths, windows, copies)
        x, _ = self._run_layers(x, [masks], None, windows, copies)
        # Shifted subsampling outputs one frame before any audio, also for an utterance without feature frames.
        return x[:, delay:frames], (lengths - delay) * inside.any(1)

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
        inside = all_true(position >= 0 if lengths is None else (position >= 0) & (position + count <= end))
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
    ) -> list[LayerMasks]:
        """Computes the masks of each layer, or one for all layers, in streams of `total` feature frames."""
        # If frames wait for their future, each layer is `lag` frames behind the one below.
        lags = range(len(self.layers) if self.context.lag else 1)
        starts = [position - n * self.context.lag - (self.warmup if copies else 0) for n in lags]
        context = self._capped(cached)
        sees_all = context.left == cached - context.lag and frames == context.chunk
        # Most steps need no mask: one chunk, between the start and the end of its stream, with all of its past filled.
        if inside and sees_all and all_true(starts[-1] >= cached):
            return [LayerMasks(None, None)]
        return step_masks(context, starts, cached, frames, self.subsampling.num_frames(total), windows, copies)

    def _run_layers(
        self,
        x: Tensor,
        masks: list[LayerMasks],
        states: tuple[LayerState, ...] | None,
        windows: Windows | None,
        copies: Copies | None,
    ) -> tuple[Tensor, list[LayerState]]:
        x = self.dropout(x * self.scale)
        positions = self._positions(x, states, windows, copies)
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

    def _positions(
        self, x: Tensor, states: tuple[LayerState, ...] | None, windows: Windows | None, copies: Copies | None
    ) -> Tensor:
        """Computes the sinusoids of the distances between queries and keys, within a group if there are groups."""
        queries = copies.frames + copies.right if copies else x.shape[1]
        keys = queries + (states[0].attention.past.shape[1] if states else 0)
        lag = self.context.lag if states else 0
        if windows:
            again = copies.right if copies else 0
            queries, keys, lag = windows.group + again, windows.keys + again, windows.after
        return relative_positions(queries, keys, self.d_model, x, lag)

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


def _output_only(layer: ConformerLayer, *inputs: Any) -> tuple[Tensor, None]:
    return layer(*inputs)[0], None
