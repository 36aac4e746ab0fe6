"""The context that an encoder uses, and the sizes of streaming steps that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from streamnest.encoder.config import EncoderConfig
from streamnest.encoder.context import Context
from streamnest.encoder.context_choices import ContextChoices
from streamnest.encoder.copies import make_copies
from streamnest.encoder.layer import ConformerLayer
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder.subsampling import Subsampling
from streamnest.errors import UserError

# Longest cap of an unlimited left context: a stream reserves memory for all of it.
_LONGEST_LEFT_MS = 3_600_000.0


class ContextualEncoder(nn.Module):
    """Base of the encoder, without its arithmetic: default context, choices, and the context in use.

    Args:
        config: context, stride and presets.

    Attributes:
        frame_ms: milliseconds per encoder frame.
        default_context: context of validation and, by default, of inference.
        choices: named contexts that training samples from.
        context: context in use.
        is_offline: True inside `offline`.
    """

    subsampling: Subsampling
    layers: Sequence[ConformerLayer]
    is_offline = False

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        c = config
        self.frame_ms = c.hop_ms * c.subsampling_factor
        limits = c.left_context_ms, c.right_context_ms
        self.default_context = Context.from_ms(*limits, self.frame_ms, c.style, c.chunk_ms)
        self.context, self.choices = self.default_context, ContextChoices(c.contexts, self.frame_ms, c.style)

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

    @property
    def target_shift(self) -> int:
        """Encoder frames between target frame t and the output that covers it: 0, or 1 with shifted subsampling."""
        return -(self.subsampling.lookahead // self.subsampling.factor)

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
    def chunk_features(self) -> int | None:
        """Feature frames that become available together; None is the whole utterance."""
        return None if self.context.chunk is None else self.context.chunk * self.subsampling.factor

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
