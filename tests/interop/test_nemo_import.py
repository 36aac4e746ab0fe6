"""Imported NeMo archives compute what NeMo computes; parts that are not imported are reported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import CONFIGS, EXPECTED, NEST, cache_aware, changed, contents, pack, recognizer
from models import SHORT_PROBES
from omegaconf import DictConfig

from streamnest.build import build_model
from streamnest.checkpoint.inherit_encoder import load_encoder, with_encoder_of
from streamnest.checkpoint.loading import load_pretrained, write_checkpoint
from streamnest.checkpoint.transfer import transfer
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.config.compose import compose_config
from streamnest.errors import UserError
from streamnest.interop.nemo import import_nemo
from streamnest.interop.nemo.archive import read_archive
from streamnest.interop.nemo.settings import Settings, read_settings
from streamnest.interop.nemo.targets import read_targets
from streamnest.pretraining import Pretraining
from streamnest.streaming.certificate import verify

Imported = tuple[Pretraining, TransferReport, list[str]]


@pytest.fixture(scope="module")
def nest() -> Imported:
    return import_nemo(NEST, CONFIGS)


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    members = {**contents(cache_aware), "./0123_tokenizer.model": b"pieces"}
    return import_nemo(pack(tmp_path_factory.mktemp("a") / "asr.nemo", members), CONFIGS)


@pytest.fixture
def config() -> dict[str, Any]:
    """A copy of the config of the archive."""
    return copy.deepcopy(read_archive(NEST).config)


def read(config: dict[str, Any]) -> tuple[Settings, TransferReport]:
    report = TransferReport(NEST)
    settings = read_settings(config, report)
    read_targets(config, settings, report)
    return settings, report


@torch.no_grad()
def test_a_nest_archive_computes_what_nemo_computes(nest: Imported, tmp_path: Path) -> None:
    write_checkpoint(nest[0], tmp_path / "nest.ckpt")
    model, expected = load_pretrained(tmp_path / "nest.ckpt"), torch.load(EXPECTED, weights_only=True)
    features, frames = model.frontend(expected["wav"], expected["lengths"])
    encoded, valid = model(expected["wav"], expected["lengths"])
    tokens = model.targets(features, frames)
    best, codes = model.objective.logits(encoded).log_softmax(-1).max(-1)
    assert frames.tolist() == expected["feat_len"].tolist() and valid.tolist() == expected["enc_len"].tolist()
    normalized = model.input_norm(features, frames)
    torch.testing.assert_close(normalized, expected["feats"][..., : normalized.shape[-1]], rtol=0, atol=1e-4)
    for row, (count, spans) in enumerate(zip(valid.tolist(), (frames // 8).tolist(), strict=True)):
        torch.testing.assert_close(encoded[row, :count], expected["encoded"][row].t()[:count], rtol=0, atol=1e-4)
        torch.testing.assert_close(best[row, :count], expected["logp_top"][0][row, :count], rtol=0, atol=1e-4)
        assert torch.equal(codes[row, :count], expected["logp_top"][1][row, :count])
        assert torch.equal(tokens[row, :spans], expected["tokens"][row, :spans])


@pytest.mark.parametrize("which", ["nest", "streaming"])
def test_the_overrides_compose_to_the_same_architecture(which: str, request: pytest.FixtureRequest) -> None:
    model, _, overrides = request.getfixturevalue(which)
    again = build_model(compose_config(overrides, CONFIGS, "imported"), training=False)
    assert again.config == model.config
    again.load_state_dict(model.state_dict())


def test_unused_parts_of_an_archive_are_reported(nest: Imported) -> None:
    report = nest[1]
    for name in ("optim", "spec_augment", "preprocessor.pad_to", "encoder.pos_emb_max_len"):
        assert report.outcomes(name) == ["left out"], name
    assert report.outcomes("quantizer") == ["kept"] and report.outcomes("preprocessor.normalize") == ["translated"]
    assert all(part.reason for part in report.parts)


def test_a_streaming_run_starts_from_an_imported_checkpoint(
    nest: Imported, run_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    write_checkpoint(nest[0], tmp_path / "nest.ckpt")
    sizes = [word for word in nest[2] if word.startswith(("size.", "quantizer", "encoder.sub"))]
    torch.manual_seed(5)
    model = build_model(run_config("encoder=causal", "masking=causal", "size.num_heads=4", *sizes))
    counts = transfer(model, tmp_path / "nest.ckpt").counts
    imported = nest[0].encoder.subsampling.state_dict()
    assert all(torch.equal(value, imported[name]) for name, value in model.encoder.subsampling.state_dict().items())
    assert counts["reshaped"] == 2 * 4 and torch.equal(model.quantizer.projection, nest[0].quantizer.projection)
    assert torch.equal(model.objective.heads.weight, nest[0].objective.heads.weight)


def test_a_recognizer_starts_from_an_imported_checkpoint(
    nest: Imported, run_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    write_checkpoint(nest[0], tmp_path / "nest.ckpt")
    cfg = run_config("task=ctc")
    cfg.encoder_from = str(tmp_path / "nest.ckpt")
    cfg = with_encoder_of(cfg, overrides=["task=ctc"])
    model = build_model(cfg, labels={"tokenizer": None, "kind": "char", "symbols": ["a", "b"]})
    load_encoder(model, cfg.encoder_from)
    audio = 0.1 * torch.randn(1, 16000)
    with torch.no_grad():
        outputs = [m.eval()(audio, torch.tensor([16000]))[0] for m in (model, nest[0])]
    assert torch.equal(*outputs)


def test_a_cache_aware_recognizer_streams_and_is_certified(streaming: Imported) -> None:
    model, report, _ = streaming
    encoder = model.encoder
    assert list(encoder.choices.by_name) == ["lookahead480_left1120", "lookahead80_left1120", "causal_left1120", "full"]
    assert encoder.default_context == encoder.choices["lookahead480_left1120"]
    assert (encoder.subsampling.scheme, encoder.normalize, model.target_norm.kind) == ("shifted", "none", "utterance")
    encoder.use_context("lookahead80_left1120")
    assert verify(model, probes=SHORT_PROBES).passed
    encoder.use_context(None)
    for name in ("tokenizer", "0123_tokenizer.model", "decoder", "joint", "decoder.*", "joint.*"):
        assert report.outcomes(name) == ["left out"], name
    assert report.outcomes("quantizer, mask embedding, heads") == ["new"]


def test_a_causal_batch_norm_becomes_frozen(tmp_path: Path) -> None:
    def causal(config: dict[str, Any], weights: dict[str, Any]) -> None:
        recognizer(config, weights)
        config["encoder"] |= {"att_context_size": [10, 0], "conv_context_size": [8, 0], "untie_biases": False}
        config["preprocessor"]["normalize"] = {"fixed_mean": [-8.0] * 80, "fixed_std": [3.0] * 80}
        for name in [name for name in weights if name.endswith("running_mean")]:
            weights[name] += torch.arange(64) / 64

    model, report, _ = import_nemo(changed(tmp_path / "a.nemo", causal), CONFIGS)
    norm = model.encoder.layers[0].convolution.norm
    assert type(norm).__name__ == "FrozenBatchNorm" and float(norm.running_mean.std()) > 0.1
    assert report.outcomes("encoder.conv_norm_type") == ["translated"]
    assert report.outcomes("encoder.*.conv.batch_norm.num_batches_tracked") == ["left out"]
    assert model.encoder.normalize == "global" and model.input_norm.mean.tolist() == [-8.0] * 80
    assert model.latency.lookahead_ms == pytest.approx(2.4375)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder._target_", "nemo.collections.asr.modules.SqueezeformerEncoder", "_target_=SqueezeformerEncoder"),
        (
            "preprocessor._target_",
            "nemo.collections.asr.modules.AudioToMFCCPreprocessor",
            "must be AudioToMelSpec",
        ),
        ("encoder.subsampling", "striding", "encoder.subsampling='striding' .* it must be 'dw_striding'"),
        ("encoder.subsampling", "vggnet", "encoder.subsampling='vggnet'"),
        ("encoder.subsampling_factor", 6, "a power of two"),
        ("encoder.self_attention_model", "rel_pos_local_attn", "it must be 'rel_pos'"),
        ("encoder.conv_norm_type", "instance_norm", "'batch_norm' or 'layer_norm'"),
        ("encoder.conv_context_size", [6, 2], r"it must be null, 'causal', \[8, 0\] or \[4, 4\]"),
        ("encoder.reduction", "pooling", "encoder.reduction"),
        ("encoder.att_context_size", [1, 2, 3], "a pair of whole numbers"),
        ("encoder.att_context_style", "chunked_limited_with_rc", "adds up over layers"),
        ("encoder.feat_out", 32, "encoder.feat_out=32"),
        ("encoder.d_model", "${model.width}", "with references resolved"),
        ("preprocessor.normalize", "all_features", "per_feature, NA, or fixed_mean and fixed_std"),
        ("preprocessor.window", "hamming", "it must be 'hann'"),
        ("preprocessor.highfreq", 7600, "preprocessor.highfreq=7600"),
        ("preprocessor.exact_pad", True, "preprocessor.exact_pad=True"),
        ("preprocessor.log_zero_guard_value", 1e-5, "preprocessor.log_zero_guard_value"),
        ("quantizer.dist_fn", "l1", "'l2' or 'cosine'"),
    ],
)
def test_unsupported_settings_are_refused_with_key_and_value(
    config: dict[str, Any], key: str, value: Any, message: str
) -> None:
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=message):
        read(config)


def test_text_numbers_are_parsed_and_unknown_keys_reported(config: dict[str, Any]) -> None:
    config["preprocessor"]["dither"] = "1e-5"
    config["encoder"]["new_trick"] = True
    settings, report = read(config)
    assert math.isclose(settings.values["frontend.dither"], 1e-5)
    assert report.outcomes("encoder.new_trick") == ["left out"]


def test_targets_are_new_for_masked_subsampling_outputs(tmp_path: Path, nest: Imported) -> None:
    def after_subsampling(config: dict[str, Any], weights: dict[str, Any]) -> None:
        config["mask_position"] = "post_conv"
        for name in [name for name in weights if name.startswith("encoder.pre_encode.")]:
            weights[name.replace("pre_encode.", "pre_encode.pre_encode.")] = weights.pop(name)
        weights["encoder.pre_encode.masking.mask_embedding"] = torch.zeros(64)

    model, report, _ = import_nemo(changed(tmp_path / "a.nemo", after_subsampling), CONFIGS)
    assert torch.equal(model.encoder.subsampling.out.weight, nest[0].encoder.subsampling.out.weight)
    assert report.outcomes("quantizer, mask embedding, heads") == ["new"]
    assert report.outcomes("quantizer.*") == ["left out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, w: w.pop("encoder.layers.1.norm_out.bias"), r"layers\.1\.norm_out\.bias: missing, by its config"),
        (lambda c, w: w.update({"quantizer.proj.weight": torch.zeros(16, 320)}), r"proj\.weight: \(16, 320\)"),
        (lambda c, w: w.update({"quantizer.codebooks": torch.ones(1, 256, 16)}), "not unit-norm"),
        (lambda c, w: w["preprocessor.featurizer.fb"].mul_(1.01), "is not the one that the config describes"),
        (lambda c, w: c.pop("encoder"), "the config has no encoder"),
        (lambda c, w: w.update({"encoder.layers.0.adapter.weight": torch.ones(2)}), "such as encoder.layers.0.adapter"),
    ],
    ids=["missing", "shape", "codes", "filter bank", "no encoder", "adapter"],
)
def test_tensors_that_do_not_fit_the_config_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        import_nemo(changed(tmp_path / "a.nemo", change), CONFIGS)
