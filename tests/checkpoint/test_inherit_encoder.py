"""`encoder_from` and `freeze`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import ready

from streamnest.build import build_model
from streamnest.checkpoint.inherit_encoder import load_encoder, with_encoder_of
from streamnest.checkpoint.loading import load_model, load_pretrained
from streamnest.errors import UserError
from streamnest.optim import Optimization


@pytest.fixture
def checkpoint(run_config, tmp_path: Path) -> Path:
    """Writes a pretraining checkpoint whose size, preset and statistics differ from the defaults."""
    model = ready(run_config("encoder=causal", "size.num_layers=3", "encoder.normalize=online"))
    model.input_norm.mean.fill_(-5.0)
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "pretrained.ckpt")
    return tmp_path / "pretrained.ckpt"


LABELS = {"kind": "char", "symbols": list("ab ")}


def adopt(run_config, checkpoint, *overrides):
    words = [*overrides, f"encoder_from={checkpoint}"]
    cfg = with_encoder_of(run_config("task=ctc", *words), overrides=words)
    model = build_model(cfg, labels=LABELS)
    return cfg, model, load_encoder(model, checkpoint)


def test_weights_statistics_size_and_preset_are_those_of_the_checkpoint(run_config, checkpoint, speech_like):
    cfg, model, _ = adopt(run_config, checkpoint)
    source = load_pretrained(checkpoint)
    for part in ("encoder", "input_norm", "frontend"):
        theirs = getattr(source, part).state_dict()
        ours = getattr(model, part).state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in theirs)
    assert len(model.encoder.layers) == 3 and model.latency == source.latency and cfg.size.num_layers == 3
    audio, lengths = speech_like(1, 16000), torch.tensor([16000])
    assert torch.equal(model.eval()(audio, lengths)[0], source(audio, lengths)[0])


def test_a_preset_override_runs_the_same_weights(run_config, checkpoint):
    _, model, report = adopt(run_config, checkpoint, "encoder=lookahead80", "frontend.kind=sherpa")
    assert model.frontend.kind == "sherpa" and ("frontend.kind", "nest", "sherpa") in report.differences
    assert model.encoder.context.right == 2 and model.input_norm.kind == "global" and len(model.encoder.layers) == 3
    assert ("encoder.right_context_ms", 0.0, 80.0) in report.differences


def test_symmetric_convolutions_are_converted_for_a_streaming_preset(run_config, tmp_path):
    model = ready(run_config("encoder=bidirectional"))
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "offline.ckpt")
    _, streaming, report = adopt(run_config, tmp_path / "offline.ckpt", "encoder=causal")
    assert report.counts["reshaped"] >= 2 and streaming.latency.streams


def test_each_run_sets_its_own_dropout(run_config, checkpoint):
    cfg, model, _ = adopt(run_config, checkpoint, "size.dropout=0.3")
    assert cfg.encoder.dropout == model.encoder.dropout.rate == 0.3


@pytest.mark.parametrize("override", ["size.num_layers=2", "encoder.d_model=64", "encoder.subsampling_factor=8"])
def test_another_size_is_refused_naming_it(run_config, checkpoint, override):
    with pytest.raises(UserError, match=override.split(".")[1].split("=")[0]):
        adopt(run_config, checkpoint, override)


def test_another_subsampling_is_refused(run_config, checkpoint):
    with pytest.raises(UserError, match="subsampling_padding"):
        adopt(run_config, checkpoint, "encoder.subsampling_padding=shifted")


def test_another_file_is_refused(run_config):
    with pytest.raises(UserError, match=r"README\.md is not a valid checkpoint"):
        adopt(run_config, "README.md")


def test_pretraining_uses_init_from_and_other_tasks_encoder_from(run_config, checkpoint):
    with pytest.raises(UserError, match="init_from"):
        build_model(run_config(f"encoder_from={checkpoint}"))
    with pytest.raises(UserError, match="encoder_from"):
        build_model(run_config("task=ctc", f"init_from={checkpoint}"), labels=LABELS)


def test_a_recognizer_checkpoint_is_not_a_pretraining_checkpoint(run_config, checkpoint, tmp_path):
    _, model, _ = adopt(run_config, checkpoint)
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "ctc.ckpt")
    loaded = load_model(tmp_path / "ctc.ckpt")
    assert torch.equal(loaded.head.weight, model.head.weight) and loaded.tokenizer.plain() == LABELS
    with pytest.raises(UserError, match="task=ctc"):
        load_pretrained(tmp_path / "ctc.ckpt")
    # Other runs can use its encoder.
    assert len(adopt(run_config, tmp_path / "ctc.ckpt")[1].encoder.layers) == 3


@pytest.mark.parametrize(("freeze", "learns"), [("encoder", False), ("5", False), ("2", True), ("null", True)])
def test_a_frozen_encoder_stays_bit_equal_while_the_head_learns(run_config, checkpoint, train, freeze, learns):
    torch.manual_seed(0)
    model, _ = train(
        "task=ctc", f"encoder_from={checkpoint}", f"freeze={freeze}", "size.dropout=0.1", "optim.warmup_steps=1"
    )
    source = load_pretrained(checkpoint).encoder.state_dict()
    same = all(torch.equal(value, source[name]) for name, value in model.encoder.state_dict().items())
    assert same is not learns
    assert not torch.allclose(model.head.bias, model.head.bias.mean()) and float(model.seconds_seen) > 0


@pytest.mark.parametrize("freeze", ["-1", "head", "true", "0.5"])
def test_other_ways_to_freeze_are_refused(run_config, freeze):
    with pytest.raises(UserError, match="freeze="):
        build_model(run_config("task=ctc", f"freeze={freeze}"), labels=LABELS)


def test_lower_layers_have_lower_learning_rates(run_config):
    model = build_model(run_config("task=ctc", "size.num_layers=2"), labels=LABELS)
    settings = {"schedule": "constant", "lr": 1e-3, "min_lr": 0.0, "warmup_steps": 0, "max_steps": 1, "d_model": 1}
    scaled = Optimization(**settings, betas=[0.9, 0.98], weight_decay=0.1, encoder_lr_scale=0.5, layer_decay=0.1)
    optimizer, _ = scaled.build(model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        expected = {"encoder.layers.1": 0.5, "encoder.layers.0": 0.05, "encoder.subsampling": 0.005, "head": 1.0}
        (factor,) = [value for start, value in expected.items() if name.startswith(start)]
        assert rates[id(parameter)] == pytest.approx(1e-3 * factor), name


def test_scales_that_are_not_positive_are_refused(run_config):
    with pytest.raises(UserError, match="encoder_lr_scale=0"):
        build_model(run_config("task=ctc", "optim.encoder_lr_scale=0"), labels=LABELS)
