"""User errors are reported with the setting and the remedy, without a trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import processes
import pytest
import soundfile
from corpus import make_cut, tone, write_manifest
from inprocess import load
from omegaconf import DictConfig

from streamnest.build import build_data, build_model
from streamnest.errors import UserError
from streamnest.latency import require_no_leak

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=lookahead40", "encoder.subsampling_factor=8"], "nearest legal values are 0 and 80 ms"),
        (["encoder.normalize=utterance"], "normalize=utterance.*choose global or online"),
        (["encoder.conv_padding=symmetric"], "conv_padding=symmetric.*choose causal"),
        (["encoder.conv_norm=batch_norm"], "conv_norm=batch_norm.*choose layer_norm"),
        (["encoder.style=regular"], "adds up over 2 layers to 80 ms: choose style=chunked"),
        (["quantizer.stack=8"], "quantizer.stack=8 but encoder.subsampling_factor=4"),
        (["quantizer.feat_in=64"], "quantizer.feat_in=64 but frontend.num_mels=80"),
        (["encoder.num_mels=64"], "encoder.num_mels=64 but frontend.num_mels=80"),
        (["size.num_heads=3"], "multiple of size.num_heads=3"),
        (["masking.kind=sideways"], "choose one of random, causal, none"),
        (["optim.schedule=step"], "noam, cosine, tri_stage or constant"),
        (["optim=adamw_tristage", "optim.hold_share=0.95"], "hold_share=0.95: must be from 0 to 0.9, because"),
        (["quantizer.normalize=batch"], "choose one of global, online, utterance, none"),
        (["objective.mask_threshold=2"], "mask_threshold"),
        (["tags=[[x]]"], r"config.tags\[0\]=list must be of type str"),
        (["data.train_manifest={1:x}"], "has the key 1, which is not a name"),
        (["name='a\tb'"], "is not a name"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_contradicting_settings_are_refused(run_config: Compose, overrides: list[str], message: str) -> None:
    def start() -> None:
        model = build_model(run_config(*overrides))
        require_no_leak(model.encoder, model.latency)

    with pytest.raises(UserError, match=f"(?s){message}"):
        start()


def test_every_leak_is_named_at_once_and_can_be_allowed(run_config: Compose) -> None:
    leaks = ["encoder.normalize=utterance", "encoder.conv_padding=symmetric", "encoder.conv_norm=batch_norm"]
    model = build_model(run_config(*leaks))
    with pytest.raises(UserError, match=r"(?s)normalize.*conv_padding.*conv_norm.*allow_future_leak"):
        require_no_leak(model.encoder, model.latency)
    allowed = build_model(run_config(*leaks, "encoder.allow_future_leak=true"))
    assert len(require_no_leak(allowed.encoder, allowed.latency)) == 3


def test_manifests_that_are_missing_or_empty_are_refused(run_config: Compose, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("nowhere", "no such manifest"), ("empty", "the manifest is empty")):
        cfg = run_config(f"data.train_manifest={tmp_path}/{name}.jsonl")
        with pytest.raises(UserError, match=message):
            build_data(cfg).setup("fit")


def command(*overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STREAMNEST_LOGS": str(folder), "WANDB_MODE": "offline", "COLUMNS": "200"}
    return processes.run("train.py", *overrides, env=environment)


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["encoder=lookahead40", "encoder.subsampling_factor=8"], 2, "nearest legal values are 0 and 80 ms"),
        pytest.param(["encoder=lookahead44"], 2, "lookahead1040", marks=pytest.mark.long),
        pytest.param(["ckpt_path=README.md"], 2, "README.md is not a valid checkpoint", marks=pytest.mark.long),
    ],
    ids=["encoder frames", "preset", "checkpoint"],
)
def test_the_command_prints_the_message_without_a_trace(
    tmp_path: Path, overrides: list[str], status: int, message: str
) -> None:
    done = command(*overrides, folder=tmp_path)
    text = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == status
    assert message in text and "Traceback" not in text


def test_bad_audio_is_skipped_and_counted_in_the_summary(
    run_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cuts = [make_cut(tmp_path, f"c{i}", tone(2.0, i)) for i in range(12)]
    soundfile.write(tmp_path / "c0.wav", np.zeros(32000, np.float32), 16000, subtype="FLOAT")
    (tmp_path / "c1.wav").write_bytes((tmp_path / "c1.wav").read_bytes()[:3000])
    soundfile.write(tmp_path / "c2.wav", np.full(32000, np.nan, np.float32), 16000, subtype="FLOAT")
    manifest = write_manifest(tmp_path / "cuts.jsonl", cuts, extra=('{"id": "broken"',))
    files = (f"data.train_manifest={manifest}", f"data.val_manifest={manifest}", "data.num_workers=0")
    steps = ("trainer.max_steps=4", "trainer.val_check_interval=4", "statistics.hours=0.05")
    words = (*files, *steps, "data.batch_duration=10", f"paths.output_dir={tmp_path}")
    load("train").train(run_config("data=manifest", *words))
    summary = " ".join(capsys.readouterr().out.split()).rpartition("│ skipped")[2]
    assert "cuts.jsonl:1: broken line" in caplog.text
    for cause in ("constant", "not finite", "broken line"):
        assert cause in summary
    assert "not as long as declared" in summary or "unreadable" in summary
