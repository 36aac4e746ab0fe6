"""Each probe and the quick check find planted leaks and name their stage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from leaks import (
    Plant,
    become,
    encode_plus_mean,
    features_minus_mean,
    gate,
    in_step_only,
    layer,
    mean_if,
    on_audio,
    on_class,
    on_session,
    row_gate,
    rows_if,
    seeing,
    visible,
    wrap,
)
from omegaconf import DictConfig
from torch import Tensor

from streamnest.build import build_model
from streamnest.data.batch import Batch
from streamnest.encoder.attention import RelativeAttention
from streamnest.encoder.context import Context
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.pretraining import Pretraining
from streamnest.streaming.certificate import layers, verify
from streamnest.streaming.probes.batches import neighbors
from streamnest.streaming.probes.check import Probe
from streamnest.streaming.probes.latencies import latencies, promises
from streamnest.streaming.probes.left import left_context
from streamnest.streaming.probes.loudness import loudness
from streamnest.streaming.probes.modes import modes
from streamnest.streaming.probes.padding import padding
from streamnest.streaming.probes.positions import positions
from streamnest.streaming.probes.random_batches import random_batches
from streamnest.streaming.probes.sessions import minute, operations
from streamnest.streaming.probes.weights import weights
from streamnest.streaming.receptive_field import require_causal
from streamnest.streaming.session import StreamingSession

Compose = Callable[..., DictConfig]


class Leak(NamedTuple):
    """A planted leak: the probe that must find it, text of the failed check, and whether the quick check finds it."""

    plant: Plant
    probe: Probe
    text: str
    quick: bool = True
    preset: str = "lookahead40"


def convolution(condition: Callable[..., bool]) -> Plant:
    return lambda model: wrap(layer(model).convolution, mean_if(condition))


def rows(condition: Callable[..., bool]) -> Plant:
    return lambda model: wrap(layer(model).feed_forward_in, rows_if(condition))


def autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


def recomputed(model: Pretraining) -> None:
    wrap(model.encoder, mean_if(lambda self, *_: self.activation_checkpointing and torch.is_grad_enabled()))


def unmasked_padding(model: Pretraining) -> None:
    """Attention to padding: each row sees the keys that are valid in any row."""

    def forward(self: RelativeAttention, x: Tensor, positions: Tensor, mask: Any, *args: Any, **kwargs: Any) -> Any:
        joint = None if mask is None else mask.any(0, keepdim=True).expand_as(mask)
        return RelativeAttention.forward(self, x, positions, joint, *args, **kwargs)

    become(layer(model).attention, type("Leaking", (RelativeAttention,), {"forward": forward}))


def window_over_the_end(model: Pretraining) -> None:
    def forward(self: LogMel, audio: Tensor, lengths: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features, _ = LogMel.forward(self, audio, torch.full_like(lengths, audio.shape[1]), keys)
        return self._zero_past(features, self.num_frames(lengths)), self.num_frames(lengths)

    become(model.frontend, type("Leaking", (LogMel,), {"forward": forward}))


def from_the_end(context: Context, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    shift = -queries.shape[-1] % (context.chunk or 1)
    return queries + shift, keys + shift


def more_left(frames: int | None, plus: int = 0) -> Plant:
    def see(self: Context, queries: Tensor, keys: Tensor) -> Tensor:
        left = (self.left or 0) + plus if frames is None else frames
        return replace(Context(**vars(self)), left=left).visible(queries, keys)

    return seeing(see)


def symmetric_convolution(model: Pretraining) -> None:
    model.encoder.layers[1].convolution = ConvolutionModule(model.encoder.d_model, 9, "symmetric")


def faster_clock(model: Pretraining) -> None:
    model.encoder.frame_ms /= 2


def see_next_once(context: Context, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    return queries + 2 * (queries // 2 == 223), keys


def rows_of_different_lengths(model: Pretraining) -> None:
    wrap(model.encoder, lambda _, x, features, lengths: x + 0.1 * x.roll(1, 0) * (lengths.max() - lengths.min() > 100))


def buffer_gate(model: Pretraining) -> None:
    """Adds a mean over time behind a gate that a buffer closes."""
    part = layer(model).feed_forward_out
    part.register_buffer("gate", torch.full((1,), 0.5))
    wrap(part, lambda self, x, *_: x + (self.gate - 0.5) * x.mean(1, keepdim=True))


def in_later_batches(model: Pretraining) -> None:
    """Adds a mean over time in all batches of an epoch but the first."""
    base, number = type(model).training_step, [0]

    def training_step(self: Pretraining, batch: Batch, batch_idx: int) -> Tensor:
        number[0] = batch_idx
        return base(self, batch, batch_idx)

    on_class(model, "training_step", training_step)
    wrap(model.encoder, mean_if(lambda part, *_: part.training and number[0] > 0))


def wrong_subsampling(model: Pretraining) -> None:
    report = type(model).latency
    wrong = property(lambda self: replace(report.fget(self), subsampling_ms=report.fget(self).subsampling_ms + 5))  # type: ignore[attr-defined]
    model.__class__ = type("Leaking", (type(model),), {"latency": wrong})


def context(*frames: int | None) -> Plant:
    return lambda model: setattr(model.encoder, "context", Context(*frames))


LEAKS = {
    "only with gradients": Leak(convolution(lambda *_: torch.is_grad_enabled()), modes, "layer 1 convolution"),
    "only while training": Leak(convolution(lambda part, *_: part.training), modes, "layer 1 convolution"),
    "only training without gradients": Leak(
        convolution(lambda part, *_: part.training and not torch.is_grad_enabled()), modes, "layer 1 convolution"
    ),
    "only under autocast": Leak(convolution(lambda *_: autocast()), modes, "layer 1 convolution"),
    "only recomputed": Leak(recomputed, modes, "encoder output"),
    "only in the training step": Leak(in_step_only, modes, "layer 1 convolution"),
    "before masking": Leak(features_minus_mean, modes, "training path"),
    "after the encoder": Leak(encode_plus_mean, modes, "training path after the encoder"),
    "a mean of 1e-13": Leak(
        lambda model: wrap(model.input_norm, mean_if(lambda *_: True, -1, 1e-13)), modes, "normalization", quick=False
    ),
    "loud audio": Leak(on_audio(lambda audio: audio.abs().max() > 1), loudness, "front end"),
    "quiet audio": Leak(on_audio(lambda audio: audio.square().mean() < 1e-6), loudness, "front end"),
    "silence in audio": Leak(on_audio(lambda audio: (audio == 0).float().mean() > 0.25), loudness, "front end"),
    "outliers": Leak(on_audio(lambda audio: audio.abs().max() > 50), loudness, "front end"),
    "after ten seconds": Leak(convolution(lambda _, x, *__: x.shape[1] > 250), positions, "layer 1 convolution"),
    "positions that wrap": Leak(visible(lambda _, q, k: (q % 250, k % 250)), positions, "attention"),
    "chunks of 9 from the end": Leak(visible(from_the_end), positions, "attention", preset="lookahead320"),
    "chunks of 27 from the end": Leak(visible(from_the_end), positions, "attention", preset="lookahead1040"),
    "the last frame in the first": Leak(
        lambda model: wrap(model.encoder.subsampling, lambda _, x, *__: x.index_add(1, torch.tensor([0]), x[:, -1:])),
        positions,
        "subsampling",
    ),
    "large batches": Leak(convolution(lambda _, x, *__: len(x) > 16), modes, "layer 1 convolution"),
    "rows of large batches": Leak(rows(lambda _, x, *__: len(x) == 32), neighbors, "layer 1"),
    "rows while training": Leak(rows(lambda part, x, *_: part.training and len(x) == 4), neighbors, "layer 1"),
    "rows under autocast": Leak(rows(lambda *_: autocast()), neighbors, "layer 1"),
    "lengths of others": Leak(
        lambda model: wrap(model.input_norm, lambda _, x, __, lengths: x * (1 + 1e-3 * lengths.min())),
        neighbors,
        "normalization",
    ),
    "padded keys": Leak(unmasked_padding, padding, "layer 1 attention", quick=False, preset="lookahead320"),
    "padding in the last window": Leak(window_over_the_end, padding, "front end"),
    "left context too long": Leak(more_left(None, 1), left_context, "layer 0 attention", False, "limited3200"),
    "left context too short": Leak(more_left(None, -1), left_context, "layer 0 attention", False, "limited3200"),
    "left context not unlimited": Leak(more_left(300), left_context, "layer 0 attention", False, "causal"),
    "a gate of zero": Leak(gate, weights, "layer 1"),
    "a gate that is almost closed": Leak(lambda model: gate(model, -100.0, torch.sigmoid), weights, "layer 1"),
    "a gate between rows": Leak(row_gate, weights, "layer 1"),
    "another context": Leak(context(None, 8), promises, "right 320.0 ms"),
    "an unlimited context": Leak(context(), promises, "whole utterance"),
    "one symmetric convolution": Leak(symmetric_convolution, layers, "conv_padding=symmetric"),
    "another clock": Leak(faster_clock, latencies, "ms", quick=False),
    "utterances of one length": Leak(
        convolution(lambda _, x, *__: 50 <= x.shape[1] < 60), random_batches, "layer 1 convolution"
    ),
    "batches of seven": Leak(rows(lambda _, x, *__: len(x) == 7), random_batches, "layer 1"),
    "peaks of one size": Leak(on_audio(lambda audio: 0.3 < audio.abs().max() < 0.5), random_batches, "front end"),
    "lengths far apart": Leak(rows_of_different_lengths, random_batches, "encoder output"),
    "one chunk of many": Leak(
        visible(see_next_once),
        minute,
        "layer 0 attention depends on later audio",
        quick=False,
    ),
    "a gate of another value": Leak(buffer_gate, weights, "layer 1"),
    "batches after the first": Leak(in_later_batches, modes, "encoder output"),
    "a wrong figure of the report": Leak(wrong_subsampling, latencies, "subsampling_ms: ", quick=False),
}


_BUILT: dict[str, Pretraining] = {}


def build(run_config: Compose, preset: str) -> Pretraining:
    if preset not in _BUILT:
        torch.manual_seed(0)
        _BUILT[preset] = build_model(run_config(f"encoder={preset}", "size.d_model=16", "size.subsampling_channels=4"))
    return copy.deepcopy(_BUILT[preset])


# Leaks of a probe and stage that another leak covers as well.
ALIKE = {
    "only training without gradients",
    "after the encoder",
    "quiet audio",
    "outliers",
    "chunks of 9 from the end",
    "rows under autocast",
    "padding in the last window",
    "left context too short",
    "a gate that is almost closed",
    "an unlimited context",
    "batches of seven",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in LEAKS])
def test_a_planted_leak_is_found_and_named(run_config: Compose, name: str) -> None:
    leak, model = LEAKS[name], build(run_config, LEAKS[name].preset)
    leak.plant(model)
    failed = [check.measured for check in verify(model, probes=[leak.probe]).checks if not check.passed]
    assert any(leak.text in measured for measured in failed), failed
    assert not any("cannot be measured" in measured for measured in failed)


# Most kinds of leaks once; the others in the slow tests.
QUICK = [name for name, leak in LEAKS.items() if leak.quick]


def chosen(number: int, name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.slow] * (number % 4 > 0))


@pytest.mark.parametrize("name", [chosen(number, name) for number, name in enumerate(QUICK)])
def test_the_quick_check_stops_a_planted_leak(run_config: Compose, name: str) -> None:
    leak, model = LEAKS[name], build(run_config, LEAKS[name].preset)
    leak.plant(model)
    with pytest.raises(UserError, match=r"depends on|has the context"):
        require_causal(model)


class HeldBack(StreamingSession):
    def _chunks(self, stream: Any) -> int:
        return super()._chunks(stream) if stream.end is not None else max(0, super()._chunks(stream) - 1)


class NotReset(StreamingSession):
    def reset(self, number: int) -> None:
        pending = self._stream(number).pending
        super().reset(number)
        self._stream(number).pending = pending


class LostWhenSaved(StreamingSession):
    def save(self, number: int) -> dict[str, Any]:
        return {**super().save(number), "pending": torch.zeros(0)}


class NumbersAgain(StreamingSession):
    def drop(self, number: int) -> None:
        super().drop(number)
        self._next = number
        self._kept = self._new().pending.new_ones(7)

    def _new(self) -> Any:
        fresh = super()._new()
        fresh.pending = getattr(self, "_kept", fresh.pending)
        return fresh


class ForgetsAfterAMinute(StreamingSession):
    def _step(self, group: Any, chunks: int) -> None:
        super()._step(group, chunks)
        for stream in group:
            self._split_batch()
            if 1_400 < stream.emitted < 1_450:
                stream.state = self._new().state


@pytest.mark.parametrize(
    ("session", "probe"),
    [
        (HeldBack, operations),
        (NotReset, operations),
        (LostWhenSaved, operations),
        (NumbersAgain, operations),
        (ForgetsAfterAMinute, minute),
    ],
)
def test_a_faulty_session_is_not_certified(
    run_config: Compose, monkeypatch: pytest.MonkeyPatch, session: type, probe: Probe
) -> None:
    model = build(run_config, "lookahead40")
    on_session(monkeypatch, session)
    (check,) = verify(model, probes=[probe]).checks
    assert not check.passed and "cannot be measured" not in check.measured


def test_latency_is_measured_at_the_emission_of_frames(run_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(run_config, "lookahead40")
    assert verify(model, probes=[latencies]).passed
    on_session(monkeypatch, HeldBack)
    late = {check.name: check.measured for check in verify(model, probes=[latencies]).checks}
    assert late == {
        "look-ahead by emission time": "122.4375 ms",
        "algorithmic latency, mean": "122.5000 ms",
        "algorithmic latency, worst": "162.5000 ms",
        "other values of the latency report": "as measured",
    }


def test_the_quick_check_does_not_change_the_model(run_config: Compose) -> None:
    model = build(run_config, "lookahead40").train()
    before, random_state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    require_causal(model)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.encoder._forward_hooks and "sample" not in vars(model.masking)
