"""The encoder: stem, positions, masks, blocks; and its streaming step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streamnest.encoder.attention import AttentionState, RelativeAttention, relative_positions
from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.context import Context, ContextChoices
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.layer import ConformerLayer, LayerParts, LayerState
from streamnest.encoder.parts import KeepsParts, at_hand
from streamnest.encoder.state import OPEN_END, STREAM_LEFT_MS, EncoderState, trim
from streamnest.encoder.subsampling import Subsampling
from streamnest.errors import UserError


class _View(NamedTuple):
    mask: Tensor | None
    valid: Tensor | None


# Where every new frame sees every frame that there is.
_EVERYTHING = _View(None, None)


class FastConformer(KeepsParts):
    """FastConformer (Rekesh et al. 2023) with limited context, `(B, num_mels, T)` -> `(B, T', d_model)`.

    Stride: `subsampling_factor` feature frames, `frame_ms` milliseconds. Look-ahead: see `streamnest.latency`.
    Padding and neighbours in the batch change nothing; output frames past a row's length mean nothing.

    Args:
        config: sizes, context and the choices that make a preset.

    Raises:
        UserError: for contexts that are no whole number of frames and for sizes that do not fit.
    """

    _at_hand: list[LayerParts] | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = config
        if c.d_model % c.num_heads or c.d_model % 2:
            raise UserError(f"size.d_model={c.d_model} must be even and a multiple of size.num_heads={c.num_heads}")
        self.num_mels, self.d_model, self.frame_ms = c.num_mels, c.d_model, c.hop_ms * c.subsampling_factor
        self.normalize, self.allow_future_leak = c.normalize, c.allow_future_leak
        self.default_context = Context.from_ms(c.left_context_ms, c.right_context_ms, self.frame_ms, c.style)
        self.context, self.choices = self.default_context, ContextChoices(c.contexts, self.frame_ms, c.style)
        self.activation_checkpointing = c.activation_checkpointing
        self.scale = math.sqrt(c.d_model) if c.scale_input else 1.0
        self.subsampling = Subsampling(
            c.num_mels, c.subsampling_factor, c.subsampling_channels, c.d_model, c.subsampling_padding
        )
        self.dropout = Dropout(c.dropout_input)
        self.layers: Sequence[ConformerLayer] = nn.ModuleList(  # type: ignore[assignment]
            _block(c) for _ in range(c.num_layers)
        )

    @classmethod
    def build(cls, **settings: Any) -> FastConformer:
        """An encoder from the fields of `EncoderConfig` as keywords."""
        return cls(EncoderConfig(**settings))

    def use_context(self, name: str | None) -> None:
        """Runs with one of `choices` from now on; None is the default one."""
        self.context = self.default_context if name is None else self.choices[name]

    @property
    def context_name(self) -> str | None:
        """The name of the context in use, where there are several to choose from."""
        return next((name for name, context in self.choices.by_name.items() if context == self.context), None)

    def draw_context(self, number: int) -> None:
        """Runs with a context drawn by weight, the same for the same number, where there are several to draw from."""
        if self.choices.by_name:
            self.context = self.choices.draw(number)

    def each_context(self) -> Iterator[str | None]:
        """Runs with one choice after the other, and with the default one again when done; yields their names."""
        try:
            for name in self.choices.by_name or (None,):
                self.use_context(name)
                yield name
        finally:
            self.use_context(None)

    @property
    def target_shift(self) -> int:
        """Encoder frames by which the output that has heard block t comes after frame t (shifted stem: one)."""
        return -(self.subsampling.lookahead // self.subsampling.factor)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes whole utterances.

        Args:
            features: `(B, num_mels, T)`; frames past each row's length are not read.
            lengths: `(B,)` feature frames.

        Returns:
            `(B, T', d_model)` and valid encoder frames `(B,)`.
        """
        if not features.shape[-1]:
            return features.new_zeros(len(features), 0, self.d_model), torch.zeros_like(lengths)
        heard = torch.arange(features.shape[-1], device=features.device) < lengths[:, None]
        delay = self.context.delay
        features = F.pad(self._checked(features) * heard[:, None], (0, delay * self.subsampling.factor))
        lengths = lengths + delay * self.subsampling.factor
        x, _ = self.subsampling(features, lengths)
        lengths = self.subsampling.num_frames(lengths)
        time = torch.arange(x.shape[1], device=x.device)
        valid = time < lengths[:, None]
        mask = self.context.visible(time, time) & valid[:, None, :] & valid[:, :, None]
        x, _ = self._run_layers(x, [_View(mask[:, None], valid[..., None])], None)
        # A shifted stem has a first output that has heard nothing, also of an utterance of no frames.
        return x[:, delay:], (lengths - delay) * heard.any(1)

    @property
    def warmup(self) -> int:
        """Encoder frames at the start of a stream that stand for nothing: they are waited for, then dropped."""
        return self.context.delay + self.context.lag * len(self.layers)

    @property
    def chunk(self) -> int:
        """Encoder frames of one streaming step.

        Raises:
            UserError: for what cannot be emitted before the utterance ends.
        """
        context, convolution = self.context, self.layers[0].convolution
        if context.chunk is None:
            raise UserError("this encoder cannot stream: give encoder.right_context_ms")
        if convolution.lookahead or not convolution.norm_is_framewise:
            raise UserError("this encoder cannot stream: encoder.conv_padding=causal and conv_norm=layer_norm can")
        return context.chunk

    def left_frames(self, max_left_ms: float = STREAM_LEFT_MS) -> int:
        """Encoder frames of past that a stream remembers: the left context, or the cap of an unlimited one."""
        left = self.context.left
        return int(max_left_ms / self.frame_ms) // self.chunk * self.chunk if left is None else left

    def init_state(self, batch: int, max_left_ms: float = STREAM_LEFT_MS) -> EncoderState:
        """The state of `batch` streams that have heard nothing yet.

        Args:
            batch: number of streams.
            max_left_ms: the cap of an unlimited left context. A stream longer than that sees a window of so much past,
                in whole chunks, and no longer equals the offline forward. Limited contexts do not need it.

        Raises:
            UserError: for contexts that cannot stream.
        """
        left = self.left_frames(max_left_ms)
        weight, block, lag = self.subsampling.out.weight, self.layers[0], self.context.lag
        heads, d_head = block.attention.num_heads, block.attention.d_head
        attended = weight.new_zeros(batch, left + lag, 2, heads, d_head)
        convolved = weight.new_zeros(batch, block.convolution.past, self.d_model)
        queries = (weight.new_zeros(batch, heads, lag, d_head),) if lag else ()
        waiting = (weight.new_zeros(batch, lag, self.d_model),) if lag else ()
        blocks = tuple(LayerState(AttentionState(attended, queries), convolved, waiting) for _ in self.layers)
        none = torch.zeros(batch, dtype=torch.long, device=weight.device)
        return EncoderState(self.subsampling.init_state(batch), blocks, none, none)

    def step(self, features: Tensor, state: EncoderState, lengths: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        """Encodes the next chunks of streams, with the arithmetic of `forward`.

        Args:
            features: `(B, num_mels, T)`, so many that the stem's outputs become whole chunks: the first time
                `first_features`, then `chunk * subsampling_factor`, or any number of chunks more.
            state: from `init_state` or the previous step.
            lengths: `(B,)` feature frames in each whole stream, where it is over; what lies past it is not heard.

        Returns:
            `(B, n * chunk, d_model)` and the next state. The first `warmup` frames of a stream stand for nothing.
        """
        heard, context, count = state.heard, self.context, features.shape[-1]
        end = torch.full_like(heard, OPEN_END) if lengths is None else lengths
        midst = _holds(heard >= 0 if lengths is None else (heard >= 0) & (heard + count <= end))
        total = end + context.delay * self.subsampling.factor
        if not midst:
            time = heard[:, None] + torch.arange(count, device=heard.device)
            features = features * ((time >= 0) & (time < end[:, None]))[:, None]
        x, subsampled = self.subsampling(self._checked(features), None if midst else total, state.subsampling, heard)
        cached, frames = state.layers[0].attention.past.shape[1], x.shape[1]
        views = self._views(state.position, cached, frames, total, midst)
        x, blocks = self._run_layers(x, views, state.layers)
        trimmed = tuple(trim(block, cached) for block in blocks)
        return x, EncoderState(subsampled, trimmed, heard + count, state.position + frames)

    def keep_at_hand(self) -> None:
        """Steps from now on with the parts of each block at hand, see `KeepsParts`."""
        self._at_hand = [block.parts(at_hand) for block in self.layers]

    @property
    def first_features(self) -> int:
        """Feature frames after which the first chunk of a stream can be emitted; each later one needs whole blocks."""
        return (self.warmup + self.chunk) * self.subsampling.factor + self.subsampling.lookahead

    def _views(self, position: Tensor, cached: int, frames: int, total: Tensor, midst: bool) -> list[_View]:
        """What each layer may see, or all layers, of streams of `total` feature frames; see `_view`."""
        # Where frames wait for their future, each layer stands `lag` frames further back in the stream.
        layers = range(len(self.layers) if self.context.lag else 1)
        places = [position - n * self.context.lag for n in layers]
        # Masks hold nothing back in most steps: one chunk, in the midst of its stream.
        if midst and frames == self.context.chunk and _holds(places[-1] >= cached):
            return [_EVERYTHING]
        return [self._view(place, cached, frames, self.subsampling.num_frames(total)) for place in places]

    def _view(self, position: Tensor, cached: int, frames: int, lengths: Tensor) -> _View:
        """What a layer may see whose new frames begin at `position` `(B,)`, after `cached` older ones."""
        keys = position[:, None] + torch.arange(-cached, frames, device=position.device)
        queries = keys[:, cached - self.context.lag : cached - self.context.lag + frames]
        valid = (queries >= 0) & (queries < lengths[:, None])
        # The cap of an unlimited left context holds for each frame, however many are stepped at once.
        context = replace(self.context, left=cached - self.context.lag)
        mask = context.visible(queries, keys) & ((keys >= 0) & (keys < lengths[:, None]))[:, None, :]
        return _View((mask & valid[..., None])[:, None], valid[..., None])

    def _run_layers(
        self, x: Tensor, views: list[_View], states: tuple[LayerState, ...] | None
    ) -> tuple[Tensor, list[LayerState]]:
        x = self.dropout(x * self.scale)
        keys = x.shape[1] + (states[0].attention.past.shape[1] if states else 0)
        positions = relative_positions(x.shape[1], keys, self.d_model, x, self.context.lag if states else 0)
        after = []
        for index, block in enumerate(self.layers):
            view = views[min(index, len(views) - 1)]
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(_output_alone, block, x, positions, view, use_reentrant=False)
                continue
            before = (states[index], self._at_hand[index] if self._at_hand else None) if states else ()
            x, state = block(x, positions, view.mask, view.valid, *before)
            after.append(state)
        return x, after

    def _checked(self, features: Tensor) -> Tensor:
        if features.ndim != 3 or features.shape[1] != self.num_mels:
            raise UserError(f"the encoder takes (B, {self.num_mels}, T) features, got {tuple(features.shape)}")
        return features


def _block(c: EncoderConfig) -> ConformerLayer:
    attention = RelativeAttention(c.d_model, c.num_heads, c.dropout_attention, c.bias)
    convolution = ConvolutionModule(c.d_model, c.conv_kernel_size, c.conv_padding, c.conv_norm, c.bias)
    return ConformerLayer(c.d_model, c.ff_expansion * c.d_model, attention, convolution, c.dropout, c.bias)


def _holds(condition: Tensor) -> bool:
    """Whether a condition holds in all rows, where one may ask, so that a step spares the small calls that masks take.

    A graph cannot ask, and for other devices than a CPU it would mean to wait.
    """
    graph = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return not graph and condition.device.type == "cpu" and bool(condition.all())


def _output_alone(block: ConformerLayer, x: Tensor, positions: Tensor, view: _View) -> Tensor:
    out: Tensor = block(x, positions, view.mask, view.valid)[0]
    return out
