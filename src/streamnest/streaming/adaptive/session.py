"""Streaming session that chooses the context of each chunk."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamnest.encoder.schedule import Chunk, using_context
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.adaptive.budget import Budget
from streamnest.streaming.adaptive.choices import Choices
from streamnest.streaming.adaptive.contexts import AdaptiveContext, adaptive_contexts
from streamnest.streaming.adaptive.history import History
from streamnest.streaming.adaptive.rules import Evidence, posterior_entropy, rule_maker
from streamnest.streaming.session import StreamingSession, _Stream
from streamnest.streaming.step import compact


@dataclass(frozen=True)
class AdaptiveSettings:
    """Settings of adaptive look-ahead.

    Attributes:
        budget_ms: largest average latency of a stream.
        rule: `entropy`, `preview`, `energy`, `load`, `random` or `fixed:NAME`.
        contexts: names of the contexts to choose from; None for all of limited look-ahead.
        seed: seed of random rules.
    """

    budget_ms: float
    rule: str = "entropy"
    contexts: tuple[str, ...] | None = None
    seed: int = 0

    @classmethod
    def of(cls, args: argparse.Namespace) -> AdaptiveSettings | None:
        """Returns the settings of the options of a command; None without `--adaptive`."""
        if args.adaptive is None:
            return None
        return cls(args.adaptive, args.adaptive_rule, tuple(args.adaptive_contexts or ()) or None)


@dataclass
class _AdaptiveStream(_Stream, Choices):
    """A stream with its choices."""


class AdaptiveSession(StreamingSession):
    """`StreamingSession` of a dynamic encoder that chooses the context of each chunk, within a budget of latency.

    Before each chunk the rule of a stream states how much latency the chunk is worth, and the budget turns that into a
    context. The chunk is encoded once its samples have arrived. What was emitted stays. The frames equal those of an
    offline forward pass with the same chunks (`forward_with_chunks`). Streams with the same choice are one batch.

    Choices depend on samples that earlier chunks consumed and on frames that were emitted, so that they are the same
    for any split of the audio, except with `rule="load"`.

    Args:
        model: model with a dynamic encoder.
        settings: budget and rule.
        max_left_ms: cap of an unlimited left context, see `adaptive_contexts`.
        record: keep the chunks of each stream for `History.chunks`, which takes memory as the stream grows.

    Attributes:
        contexts: contexts to choose from, from the smallest to the largest look-ahead.
        flushed: histories of the streams of the last `flush`.

    Raises:
        UserError: for models without contexts to choose from, and for settings out of range.
    """

    def __init__(
        self,
        model: EncoderTask,
        settings: AdaptiveSettings,
        max_left_ms: float = STREAM_LEFT_MS,
        record: bool = True,
    ) -> None:
        contexts = adaptive_contexts(model, settings.contexts, max_left_ms)
        # Between steps; the state keeps the longest past, and each context sees a part of it.
        self._idle = Chunk.of(math.gcd(*(c.frames for c in contexts)), max(c.chunk.left or 0 for c in contexts))
        with using_context(model.encoder, self._idle):
            super().__init__(model, max_left_ms)
        self.contexts, self.settings, self.record = contexts, settings, record
        self.flushed: dict[int, History] = {}
        self._new_rule = rule_maker(settings.rule, contexts, settings.seed)
        rule = self._new_rule(0)
        self._previews, self._entropy = rule.previews, posterior_entropy(self.model) if rule.uses_head else None
        Budget(contexts, settings.budget_ms)  # refuses a budget that cannot be met

    @property
    def worst_ms(self) -> float:
        """Bound of the algorithmic latency of any sample: that of the largest context."""
        return self.contexts[-1].worst_ms

    def history(self, number: int) -> History:
        """Returns the choices of a stream so far; after `flush` they are in `flushed`."""
        with self.lock:
            return self._adaptive(self._stream(number)).history

    def flush(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Ends streams; returns their last frames `(k, d)`, and keeps their histories in `flushed`."""
        with self.lock:
            self.flushed = {number: self.history(number) for number in numbers}
            return super().flush(numbers)

    def save(self, number: int) -> dict[str, Any]:
        """Returns a stream as plain containers of tensors; after `restore` it continues with the same choices."""
        with self.lock:
            choices = self._adaptive(self._stream(number)).save_choices()
            return {**super().save(number), "adaptive": choices, "settings": self._described()}

    def _restored(self, saved: Mapping[str, Any]) -> _AdaptiveStream:
        stream = self._with_choices(super()._restored(saved))
        if saved.get("settings") != self._described():
            raise UserError(
                f"the saved stream has the settings {saved.get('settings')!r}, and this session {self._described()!r}: "
                "restore it in a session with the same budget, rule and contexts"
            )
        stream.restore_choices(saved.get("adaptive"), stream.emitted)
        return stream

    def _described(self) -> str:
        """Returns a text that identifies budget, rule and contexts."""
        contexts = (f"{c.name} ({c.frames} frames after {c.chunk.left})" for c in self.contexts)
        return f"{self.settings.rule}, {self.settings.budget_ms!r} ms, {', '.join(contexts)}"

    def windowed(self, number: int) -> bool:
        """True if a stream with unlimited left context has outgrown the cap and uses a window of its past."""
        with self.lock:
            emitted = self._stream(number).emitted
        return any(context.capped and emitted > (context.chunk.left or 0) for context in self.contexts)

    @staticmethod
    def _adaptive(stream: _Stream) -> _AdaptiveStream:
        assert isinstance(stream, _AdaptiveStream)
        return stream

    def _new(self) -> _AdaptiveStream:
        return self._with_choices(super()._new())

    def _with_choices(self, made: _Stream) -> _AdaptiveStream:
        """Adds the choices of a stream before its first chunk."""
        budget, history = Budget(self.contexts, self.settings.budget_ms), History(self.contexts, self.record)
        rule = self._new_rule(self._next)
        return _AdaptiveStream(**vars(made), budget=budget, rule=rule, history=history)

    def _run(self, streams: list[_Stream]) -> None:
        """Encodes the chunks of all streams that have their samples; streams with the same choice are one batch."""
        try:
            while self._advance([self._adaptive(stream) for stream in streams]):
                pass
        finally:
            self._select(self._idle)
        for stream in streams:
            stream.pending = compact(stream.pending)

    def _advance(self, streams: list[_AdaptiveStream]) -> bool:
        """Encodes at most one chunk of each stream; returns False if no stream has the samples of one."""
        groups = dict[tuple[AdaptiveContext, bool, bool], list[_AdaptiveStream]]()
        for stream in streams:
            if stream.choice is None and not self._previews:
                self._choose(stream)
            context = stream.choice or self.contexts[0]
            self._select(context.chunk)
            if self._chunks(stream) > 0:
                key = (context, stream.emitted > 0, stream.choice is None)
                groups.setdefault(key, []).append(stream)
        for (context, _, undecided), group in groups.items():
            self._select(context.chunk)
            (self._preview if undecided else self._commit)(group)
        return bool(groups)

    def _commit(self, group: list[_AdaptiveStream]) -> None:
        """Encodes the next chunk of streams that have chosen its context."""
        self._encode_chunk(group)
        for stream in group:
            self._emitted(stream)

    def _preview(self, group: list[_AdaptiveStream]) -> None:
        """Encodes the next chunk with the smallest context, and discards the result if a larger one is chosen."""
        self._split_batch()
        before = [(stream.state, stream.pending, stream.emitted) for stream in group]
        self._encode_chunk(group)
        chosen = [self._choose(stream) for stream in group]
        if any(context is not self.contexts[0] for context in chosen):
            self._split_batch()
        for stream, context, saved in zip(group, chosen, before, strict=True):
            if context is self.contexts[0]:
                self._emitted(stream)
            else:
                stream.state, stream.pending, stream.emitted = saved
                stream.out.pop()

    def _encode_chunk(self, group: list[_AdaptiveStream]) -> None:
        """Encodes one chunk of each stream in the context of the encoder, and updates the evidence."""
        need = self.chunk_samples if group[0].emitted else self.first_samples
        consumed = [stream.pending[:need] for stream in group]
        self._step(list(group), 1)
        frames = [stream.out[-1] for stream in group]
        entropies = self._entropies(frames) if self._entropy else [math.nan] * len(group)
        for stream, samples, entropy in zip(group, consumed, entropies, strict=True):
            stream.evidence = Evidence(entropy, _decibels(samples))

    def _emitted(self, stream: _AdaptiveStream) -> None:
        """Records the last chunk of a stream; the next one has no context yet."""
        context, stream.choice = stream.choice or self.contexts[0], None
        stream.history.add(context, len(stream.out[-1]))

    def _choose(self, stream: _AdaptiveStream) -> AdaptiveContext:
        return stream.choose(1000 * len(stream.pending) / self.sample_rate)

    @torch.no_grad()
    def _entropies(self, frames: list[Tensor]) -> list[float]:
        """Returns the mean entropy of the predictions for frames `(k, d)` of each stream; NaN for none."""
        assert self._entropy
        joined = self._entropy(torch.cat(frames))
        return [float(part.mean()) for part in joined.split([len(x) for x in frames])]

    def _select(self, chunk: Chunk) -> None:
        """Sets the context of the encoder, and the number of samples of its first and later steps."""
        encoder, frontend = self.model.encoder, self.model.frontend
        encoder.context = chunk
        self.chunk_samples = chunk.frames * encoder.subsampling.factor * frontend.hop
        self.first_samples = encoder.first_features * frontend.hop + frontend.overhang


def _decibels(samples: Tensor) -> float:
    """Returns the energy of samples `(n,)` in dB; NaN for none."""
    return 10 * math.log10(float(samples.square().mean()) + 1e-10) if len(samples) else math.nan
