from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from streamnest.build import build_model
from streamnest.callbacks import ValHistory
from streamnest.callbacks.gradients import GradientGuard
from streamnest.data.manifest import LoadReport
from streamnest.reporting.panels import config_panel, show
from streamnest.reporting.start_panel import start_panel
from streamnest.reporting.summary import EndedRun
from streamnest.reporting.summary_panel import _duration, summary_panel

SMALL = (
    "size.d_model=32",
    "size.num_layers=2",
    "size.num_heads=2",
    "size.subsampling_channels=8",
    "quantizer.num_classes=8192",
    "masking.block_size=40",
    "masking.mask_prob=0.01",
    "name=x",
    "preset=p",
)
FIRST = {"step": 0.0, "val/loss": 9.0, "val/accuracy": 0.0}
LAST = {
    "step": 80.0,
    "val/loss": 6.1,
    "val/accuracy": 0.125,
    "val/unigram": 6.35,
    "val/gain": 0.25,
    "val/loss_masked": 5.0,
    "val/gain_masked": 0.2,
    "val/loss_unmasked": 1.1,
    "val/gain_unmasked": 0.05,
    "val/perplexity": 267.0,
    "val/codes_used": 714.0,
    "val/rank": 6.3,
}


class CPUAccelerator:
    pass


@pytest.fixture
def trainer(tmp_path):
    return SimpleNamespace(
        num_devices=1,
        num_nodes=1,
        accelerator=CPUAccelerator(),
        precision="32-true",
        max_steps=80,
        global_step=80,
        loggers=[],
        checkpoint_callback=SimpleNamespace(dirpath=str(tmp_path), best_model_path=""),
    )


@pytest.fixture
def data():
    found = {"train": LoadReport(3600.0, 10, {"a", "b"}), "val": LoadReport(60.0, 2, {"c"})}
    found["train"].counts.update({"too short": 3, "split": 2})
    return SimpleNamespace(report=found, skipped={})


def printed(panel):
    file = io.StringIO()
    show(panel, Console(file=file))
    return file.getvalue()


def config(composed, *overrides):
    cfg = composed(*SMALL, "paths.output_dir=out", *overrides)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def start(composed, data, trainer, *overrides):
    cfg = config(composed, *overrides)
    model = build_model(cfg)
    return model, printed(start_panel(cfg, model, data, trainer))


def test_allowed_commands_and_speeds_are_announced(composed, data, trainer):
    text = start(composed, data, trainer)[1]
    assert "in manifests are executed" not in text and "speed change" not in text
    text = start(composed, data, trainer, "data.allow_commands=true", "augment=full")[1]
    assert "in manifests are executed" in text and "67% of utterances, factors 0.9, 1.1" in text


@pytest.mark.parametrize("preset", ["causal", "lookahead40", "lookahead320"])
def test_the_panel_shows_the_computed_latency(composed, data, trainer, preset):
    model, text = start(composed, data, trainer, f"encoder={preset}")
    found = model.latency
    assert f"look-ahead       {found.lookahead_ms:.1f} ms" in text
    assert f"{found.latency_mean_ms:.1f} ms mean, {found.latency_worst_ms:.1f} ms worst" in text


def test_contexts_with_weight_0_are_not_listed_as_sampled(composed, data, trainer):
    choices = (
        "+encoder.contexts={a: {right_context_ms: 0}, b: {right_context_ms: 80}, c: {right_context_ms: 40, weight: 0}}"
    )
    text = start(composed, data, trainer, "encoder=lookahead40", choices)[1]
    assert "one sampled per batch: a (22.5 ms), b (62.5 ms)" in text and "never sampled: c (42.5 ms)" in text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["encoder=causal"], "no layer sees the future; only the analysis window looks ahead (checked)"),
        (["encoder=lookahead40"], "no layer sees past the current 80 ms chunk (checked)"),
        (["encoder=bidirectional"], "none: attention to the end of the utterance, symmetric convolutions, normal"),
        (["encoder=causal", "encoder.conv_padding=symmetric"], "violated, layers see more of the future than the pres"),
    ],
    ids=["causal", "chunked", "bidirectional", "leaking"],
)
def test_causality_is_described(composed, data, trainer, overrides, words):
    text = start(composed, data, trainer, *overrides)[1]
    assert f"causality        {words}" in text
    assert ("look-ahead       whole utterance" in text) == (overrides == ["encoder=bidirectional"])


def test_the_composed_config_can_be_printed(composed):
    text = printed(config_panel(config(composed, "encoder=lookahead80")))
    assert "  right_context_ms: 80" in text and "\x1b" not in text


def test_the_panel_shows_masking_codebooks_and_data(composed, data, trainer):
    text = start(composed, data, trainer, "masking=causal", "quantizer.num_codebooks=2")[1]
    for words in (
        "causal spans of 400 ms over about 33% of frames",
        "codebooks        2 of 8192 entries",
        "1.00 h, 10 cuts, 2 speakers",
        "out",
    ):
        assert words in text


def test_piped_panels_are_plain_with_commands_on_one_line(composed, data, trainer, tmp_path):
    (tmp_path / "last.ckpt").touch()
    text = summary(composed, data, trainer)
    assert "\x1b" not in text
    (command,) = [line for line in text.splitlines() if "python train.py" in line]
    assert command.strip() == f"python train.py ckpt_path={tmp_path}/last.ckpt trainer.max_steps=160"


def summary(composed, data, trainer):
    cfg = config(composed)
    history = ValHistory()
    history.records = [FIRST, LAST]
    model = build_model(cfg)
    model.seconds_seen += 7200
    return printed(summary_panel(EndedRun(cfg, model, data, trainer, history, 125.0)))


def test_the_summary_compares_each_loss_term_with_its_baseline(composed, data, trainer):
    text = " ".join(summary(composed, data, trainer).split())
    for words in (
        *("validation loss 9.000 -> 6.100 nats", "unigram baseline 6.350 nats (5.20 masked + 1.15 unmasked)"),
        *("below baseline 0.25 nats", "accuracy 0.0% -> 12.5%", "714 of 8192", "audio consumed 2.00 h", "2 min 5 s"),
        *("skipped utterances 3 too short", "checkpoint none"),
    ):
        assert words in text, words
    assert "split" not in text and "entropy" not in text


def test_the_summary_counts_skipped_steps(composed, data, trainer):
    guard = GradientGuard("skipped")
    trainer.callbacks = [guard]
    assert "skipped steps" not in summary(composed, data, trainer)
    guard.skipped = 12
    assert "skipped steps       12, with a gradient" in summary(composed, data, trainer)


@pytest.mark.parametrize(("seconds", "text"), [(44.9, "44 s"), (60, "1 min 0 s"), (11520, "3 h 12 min")])
def test_durations_have_two_units_at_most(seconds, text):
    assert _duration(seconds) == text


def test_the_record_of_validations_survives_a_resume():
    history = ValHistory()
    for step, loss in ((0, 9.0), (5, 8.0), (5, 7.0)):
        metrics = {"val/loss": torch.tensor(loss), "train/loss": torch.tensor(1.0)}
        history.on_validation_end(
            SimpleNamespace(global_step=step, sanity_checking=False, callback_metrics=metrics), None
        )
    resumed = ValHistory()
    resumed.load_state_dict(history.state_dict())
    assert resumed.records == [{"step": 0.0, "val/loss": 9.0}, {"step": 5.0, "val/loss": 7.0}]
    assert resumed.last_step == 5
