"""The verifier certifies every preset, and no model with a leak planted in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inprocess import load, main
from leaks import become, with_context
from models import FIXED_PRESETS, SHORT_PROBES
from omegaconf import DictConfig
from torch import Tensor, nn

from streamnest.build import build_model
from streamnest.downstream.spec_augment import SpecAugment
from streamnest.encoder import EncoderState, FastConformer
from streamnest.encoder.context import Context
from streamnest.encoder.convolution import ConvolutionModule
from streamnest.encoder.layer import FeedForward
from streamnest.encoder.state import map_state
from streamnest.encoder.subsampling import Subsampling
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.normalization import Normalizer
from streamnest.pretraining import Pretraining
from streamnest.streaming import certificate as verification
from streamnest.streaming.certificate import (
    PROBES,
    latencies,
    layers,
    left_context,
    lookahead,
    modes,
    neighbors,
    operations,
    padding,
    promises,
    sessions,
    verify,
)
from streamnest.streaming.receptive_field import find_leaking_stage, require_causal

Compose = Callable[..., DictConfig]
# Each preset is measured with few probes, and one of them with all.
FULLY = ("encoder=lookahead40", "encoder.subsampling_factor=4", "encoder.subsampling_padding=aligned")


_BUILT: dict[tuple[str, ...], Pretraining] = {}


def build(run_config: Compose, *overrides: str) -> Pretraining:
    if overrides not in _BUILT:
        torch.manual_seed(0)
        _BUILT[overrides] = build_model(run_config(*overrides))
    return copy.deepcopy(_BUILT[overrides])


@pytest.mark.parametrize("padding_scheme", ["aligned", "shifted"])
@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("preset", FIXED_PRESETS)
def test_presets_have_the_declared_look_ahead(
    run_config: Compose, preset: str, factor: int, padding_scheme: str
) -> None:
    if (preset, factor) in (("lookahead40", 8), ("lookahead1040", 8)):
        pytest.skip("40 and 1040 ms are not multiples of 80 ms")
    overrides = (
        f"encoder={preset}",
        f"encoder.subsampling_factor={factor}",
        f"encoder.subsampling_padding={padding_scheme}",
    )
    probes = PROBES if overrides == FULLY else (layers, promises, lookahead, latencies)
    certificate = verify(build(run_config, *overrides), probes=probes)
    assert certificate.passed, [check for check in certificate.checks if not check.passed]
    measured = [check for check in certificate.checks if check.name.startswith("look-ahead, frame 1 ")]
    assert preset == "bidirectional" or measured[0].declared == f"{certificate.latency.lookahead_ms:.4f} ms"


@pytest.mark.parametrize("overrides", ["encoder.normalize=online", "encoder.normalize=none frontend.kind=sherpa"])
def test_other_causal_features_are_certified(run_config: Compose, overrides: str) -> None:
    model = build(run_config, "encoder=causal", *overrides.split())
    assert verify(model, probes=[*SHORT_PROBES, left_context]).passed


def test_the_delayed_style_is_certified(run_config: Compose) -> None:
    model = build(run_config, "encoder=lookahead80", "encoder.style=delayed")
    assert verify(model, probes=[*SHORT_PROBES, left_context]).passed


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=lookahead40", "size.subsampling_channels=2"],
        ["encoder=lookahead40", "size.d_model=2", "size.num_heads=1"],
        ["encoder=limited3200", "encoder.style=regular", "encoder.left_context_ms=320"],
        ["encoder=lookahead40", "encoder.conv_norm=frozen_batch_norm", "size.dropout=0.3"],
    ],
    ids=["2 channels", "width of 2", "regular", "frozen"],
)
def test_unusual_models_without_leaks_are_certified(run_config: Compose, overrides: list[str]) -> None:
    model = build(run_config, *overrides)
    certificate = verify(model, probes=[lookahead, left_context, sessions])
    assert certificate.passed, [check for check in certificate.checks if not check.passed]


def test_downstream_tasks_are_checked_in_their_training_step(run_config: Compose) -> None:
    cfg = run_config("encoder=causal", "task=ctc", "freeze=1000", "task.consistency_weight=0.2")
    model = build_model(cfg, labels={"kind": "char", "symbols": ["a", "b"]})
    require_causal(model)
    become(model.spec_augment, MeanHidden)  # in the second view of each batch
    with pytest.raises(UserError, match="training path depends on"):
        require_causal(model)


# A plant changes the class of a module, so that copies have the leak as well.


class MeanOverTime(Normalizer):
    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(features - features.mean(-1, keepdim=True), lengths)


class MeanHidden(SpecAugment):
    def forward(self, features: Tensor, lengths: Tensor, keys: Tensor) -> Tensor:
        hidden = super().forward(features, lengths, keys)
        views = torch.arange(len(features))[:, None, None] * 2 // len(features)
        return hidden + views * features.mean(-1, keepdim=True)


class MeanOverBatch(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.mean(0, keepdim=True))


class NormOverTime(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 + x.std(1, keepdim=True))


class LaterConvolution(ConvolutionModule):
    def _convolve(self, x: Tensor) -> Tensor:
        return super()._convolve(torch.cat([x[:, 1:], x[:, :1]], dim=1))


class PaddingVisible(ConvolutionModule):
    def forward(self, x: Tensor, valid: Any, state: Any = None, *rest: Any) -> tuple[Tensor, Tensor]:
        return super().forward(x, None, state, *rest)


class SharedState(ConvolutionModule):
    def forward(self, x: Tensor, valid: Any, state: Any = None, *rest: Any) -> tuple[Tensor, Tensor]:
        return super().forward(x, valid, state if state is None else state.roll(1, 0), *rest)


class LostState(ConvolutionModule):
    def forward(self, x: Tensor, valid: Any, state: Any = None, *rest: Any) -> tuple[Tensor, Tensor]:
        return super().forward(x, valid, None, *rest)


class SqueezeExcite(FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.sigmoid(x.mean(1, keepdim=True))


class OneFrameMore(Context):
    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return super().visible(queries + 1, keys)


class Unlimited(Context):
    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return replace(Context(**vars(self)), left=None).visible(queries, keys)


class NextChunk(Context):
    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return super().visible(queries + (self.chunk or 0), keys)


class Everything(Context):
    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.ones_like(super().visible(queries, keys))


class LaterSubsampling(Subsampling):
    def forward(self, features: Tensor, *args: Any) -> Any:
        return super().forward(features.roll(-1, -1), *args)


class LaterFrontend(LogMel):
    def forward(self, audio: Tensor, lengths: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward(audio.roll(-1, -1), lengths, keys)


class ForgetfulEncoder(FastConformer):
    def step(self, features: Tensor, state: EncoderState, lengths: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        layers = map_state(torch.zeros_like, state.layers)
        return super().step(features, state._replace(layers=layers), lengths)


class EndOfOthers(FastConformer):
    def step(self, features: Tensor, state: EncoderState, lengths: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        return super().step(features, state, lengths if lengths is None else lengths.min().expand_as(lengths))


class MisplacedEncoder(FastConformer):
    def step(self, features: Tensor, state: EncoderState, lengths: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        return super().step(features, state._replace(position=state.position + 1), lengths)


def batch_norm(model: Pretraining) -> None:
    model.encoder.layers[1].convolution.norm = nn.BatchNorm1d(model.encoder.d_model)


PLANTS: dict[str, tuple[Callable[[Pretraining], Any], str, str | None]] = {
    # name: (plant, a check that must fail, the stage that must be named)
    "utterance statistics": (
        lambda m: setattr(m.input_norm, "kind", "utterance"),
        "stages in inference",
        "normalization",
    ),
    "mean over time": (lambda m: become(m.input_norm, MeanOverTime), "stages in inference", "normalization"),
    "convolution one frame ahead": (
        lambda m: become(m.encoder.layers[1].convolution, LaterConvolution),
        "look-ahead, frame 2 of 2",
        "layer 1 convolution",
    ),
    "statistics over time inside a norm": (
        lambda m: become(m.encoder.layers[0].convolution.norm, NormOverTime),
        "stages in inference",
        "layer 0 convolution",
    ),
    "squeeze and excite": (
        lambda m: become(m.encoder.layers[1].feed_forward_out, SqueezeExcite),
        "look-ahead by gradient, frame 2 of 2",
        "layer 1",
    ),
    "batch statistics in training": (batch_norm, "stages in training", None),
    "mask wrong by one frame": (lambda m: with_context(m, OneFrameMore), "stages in inference", "layer 0 attention"),
    "attention to the next chunk": (lambda m: with_context(m, NextChunk), "stages in inference", "layer 0 attention"),
    "no mask": (lambda m: with_context(m, Everything), "stages in inference", "layer 0 attention"),
    "subsampling one feature frame ahead": (
        lambda m: become(m.encoder.subsampling, LaterSubsampling),
        "stages in inference",
        "subsampling",
    ),
    "front end one sample ahead": (
        lambda m: become(m.frontend, LaterFrontend),
        "look-ahead, frame 1 of 2",
        "front end",
    ),
    "mean over the batch": (
        lambda m: become(m.encoder.layers[0].norm_out, MeanOverBatch),
        "independence of batch rows",
        None,
    ),
    "state shared between rows": (
        lambda m: become(m.encoder.layers[0].convolution, SharedState),
        "independence of concurrent streams",
        None,
    ),
    "end of the first stream that ends": (
        lambda m: become(m.encoder, EndOfOthers),
        "independence of concurrent streams",
        None,
    ),
    "convolution state lost": (
        lambda m: become(m.encoder.layers[0].convolution, LostState),
        "streamed equals offline, float32",
        None,
    ),
    "attention cache lost": (lambda m: become(m.encoder, ForgetfulEncoder), "streamed equals offline, float64", None),
    "chunks counted from one": (
        lambda m: become(m.encoder, MisplacedEncoder),
        "streamed equals offline, float64",
        None,
    ),
}


PROBE_OF = {
    "stages": modes,
    "look-ahead": lookahead,
    "independence of batch": neighbors,
    "independence of concurrent": sessions,
    "streamed": sessions,
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_leak_is_found_and_its_stage_named(run_config: Compose, name: str) -> None:
    plant, check, stage = PLANTS[name]
    model = build(run_config, "encoder=lookahead40")
    plant(model)
    probe = next(probe for start, probe in PROBE_OF.items() if check.startswith(start))
    failed = [result.name for result in verify(model, probes=[probe]).checks if not result.passed]
    assert check in failed
    assert find_leaking_stage(model) == stage


def test_a_left_context_that_only_streams_limit_is_not_certified(run_config: Compose) -> None:
    model = build(run_config, "encoder=limited3200")
    with_context(model, Unlimited)
    failed = [check.name for check in verify(model, probes=[sessions, left_context]).checks if not check.passed]
    assert failed == [
        "streamed equals offline, float32",
        "streamed equals offline, float64",
        "left context of each layer",
    ]


def test_padding_visible_to_symmetric_kernels_is_not_certified(run_config: Compose) -> None:
    model = build(run_config, "encoder=bidirectional")
    become(model.encoder.layers[0].convolution, PaddingVisible)
    certificate = verify(model, probes=[promises, padding, neighbors])
    assert [check.name for check in certificate.checks if not check.passed] == ["independence of padding"]


def test_a_leak_refuses_training_and_names_the_stage(run_config: Compose) -> None:
    model = build(run_config, "encoder=lookahead40")
    require_causal(model)
    batch_norm(model)
    with pytest.raises(UserError, match=r"layer 1 convolution depends on audio after .*training"):
        require_causal(model)
    model.encoder.allow_future_leak = True
    require_causal(model)


def test_verification_does_not_change_the_model(run_config: Compose) -> None:
    model = build(run_config, "encoder=causal").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    verify(model, probes=[modes, operations])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training and model.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restricts commands to a few probes."""
    monkeypatch.setattr(verification, "PROBES", [layers, promises, modes, lookahead, latencies])


@pytest.mark.usefixtures("short")
def test_certificates_of_a_dynamic_encoder_name_the_context(run_config: Compose) -> None:
    model = build(run_config, "encoder=dynamic")
    assert list(load("verify").certify(model, "causal", 0)) == ["causal"]
    assert model.encoder.context_name == "causal"


@pytest.mark.parametrize(
    ("overrides", "status", "text"),
    [
        (["encoder=causal"], 0, "\ncertified: look-ahead 2.4"),
        (["encoder=bidirectional"], 0, "\noffline model: its look-ahead has no bound"),
        (["encoder=causal", "encoder.normalize=utterance"], 1, "normalization ("),
        (["encoder=sideways"], 2, "sideways"),
        (["nowhere.ckpt"], 2, "no checkpoint at nowhere.ckpt"),
    ],
    ids=["causal", "offline", "leaking", "unknown", "missing"],
)
@pytest.mark.usefixtures("short")
def test_the_command_prints_a_certificate_and_sets_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], status: int, text: str
) -> None:
    small = ["size.d_model=32", "size.num_layers=2", "size.num_heads=2"] if "=" in overrides[0] else []
    assert main("verify", *overrides, *small, "--json", tmp_path / "c.json", "--picture", tmp_path / "p.png") == status
    printed = capsys.readouterr()
    assert text in printed.out + printed.err
    if status < 2:
        stored = json.loads((tmp_path / "c.json").read_text())
        assert (
            stored["context"] is None
            and stored["passed"] is (status == 0)
            and (len(stored["checks"]) >= 9 or "offline" in text)
        )
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
