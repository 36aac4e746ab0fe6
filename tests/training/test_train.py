"""The training command: panels, files, continuing, multirun, Ctrl-C."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from inprocess import load
from omegaconf import DictConfig
from processes import eventually
from runs import SHORT, UNCHECKED, environment

from streamnest.callbacks import Plots
from streamnest.checkpoint.loading import load_pretrained

ROOT = Path(__file__).parents[2]


def run(*words: str, folder: Path) -> str:
    done = processes.run(*words, env=environment(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Trains once with CSV and W&B; returns the output and the folder."""
    logs = tmp_path_factory.mktemp("logs")
    words = (sys.executable, "train.py", "masking=causal", "encoder=lookahead40", *SHORT, "logger=offline")
    streams: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(words, cwd=ROOT, env=environment(logs), check=False, **streams)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (logs / "runs").glob("*/*")
    return done.stdout, folder


def test_the_start_panel_shows_latency_data_and_device(first: tuple[str, Path]) -> None:
    text = first[0].split("validation at step 0")[0]
    for words in ("42.4 ms", "42.5 ms mean, 82.5 ms worst", "80.0 ms", "0.52 h", "13 speakers", "1 x CPU, 32-true"):
        assert words in text, words


def test_the_summary_shows_loss_baseline_codes_and_checkpoint(
    first: tuple[str, Path],
) -> None:
    text = first[0].rpartition("validation at step 6")[2]
    for words in (
        "validation loss",
        "unigram baseline",
        "above baseline",
        "codes",
        "last.ckpt",
        "wandb sync",
        "waiting",
    ):
        assert words in text, words
    assert "waiting for data" in text


def test_metrics_plots_config_and_checkpoints_are_written(first: tuple[str, Path]) -> None:
    folder = first[1]
    header = (folder / "csv/metrics.csv").read_text().splitlines()[0]
    for name in ("train/loss", "train/accuracy", "train/loss_minus_entropy", "train/lr", "val/loss", "val/gain"):
        assert name in header.split(",")
    assert (folder / "plots/step_0000006.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / ".hydra/config.yaml").is_file() and list((folder / "wandb").glob("offline-run-*"))
    model = load_pretrained(folder / "checkpoints/last.ckpt")
    encoded, frames = model(0.1 * torch.randn(1, 16000), torch.tensor([16000]))
    assert encoded.shape == (1, 25, 32) and int(frames) == 25


def test_the_printed_command_continues_the_run(first: tuple[str, Path]) -> None:
    text, folder = first
    command = text.rpartition("continue:")[2].strip().splitlines()[0]
    words = shlex.split(command)[1:]
    assert "trainer.max_steps=12" in words
    more = run(*words, "optim.lr=1e-4", folder=folder / "more")
    assert "step 7/12" in more and "step 1/12" not in more
    (warning,) = [line for line in more.splitlines() if "with other settings" in line]
    assert warning.endswith("with other settings: optim.lr=0.0001 (was 0.003)") and "last.ckpt" in warning
    # The first validation loss of the summary is that of the first run.
    start = text.rpartition("validation loss")[2].split()[0]
    assert more.rpartition("validation loss")[2].split()[0] == start


@pytest.mark.long
def test_multirun_jobs_have_separate_folders_and_one_group(tmp_path: Path) -> None:
    run(
        *("train.py", "-m", "encoder=causal,limited3200", *SHORT, "trainer.max_steps=2", "logger=offline"),
        *("trainer.val_check_interval=2", "hydra.sweep.dir=${paths.log_dir}/sweep/one"),
        folder=tmp_path,
    )
    jobs = sorted(path.name for path in (tmp_path / "sweep/one").iterdir() if path.is_dir())
    assert jobs == ["0_causal-causal-tiny", "1_limited3200-causal-tiny"]
    for job in jobs:
        (stored,) = (tmp_path / "sweep/one" / job / "wandb").glob("offline-run-*/*.wandb")
        assert eventually(lambda stored=stored: b"sweep_one" in stored.read_bytes())


def test_ctrl_c_saves_and_ends_with_status_0(tmp_path: Path) -> None:
    words = (*SHORT, UNCHECKED, "trainer.max_steps=5000", "trainer.val_check_interval=5000", "~callbacks.plots")
    process = processes.Process("train.py", *words, env=environment(tmp_path))
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step 3/"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=120)
    text = "".join(seen) + rest
    assert "Ctrl-C: saved step" in text and "continue: python train.py" in text and "Traceback" not in text
    assert process.returncode == 0
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert 3 <= torch.load(checkpoint, weights_only=True)["global_step"] < 5000


@pytest.mark.long
def test_a_run_without_validation_returns_no_metric(run_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    words = ("trainer.max_steps=1", "data.val_manifest=null", "data.cache_mb=0", "statistics.hours=0.001")
    assert load("train").train(run_config(*words, f"paths.output_dir={tmp_path}", "logger=none")) is None


def test_a_run_killed_in_its_last_validation_repeats_it(
    run_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    words = ("debug=fast", "callbacks=ema", "encoder=causal", "trainer.max_steps=1", "statistics.hours=0.001")
    cfg = run_config(*words, UNCHECKED, f"paths.output_dir={tmp_path}", "run_id=one")

    class Killed(Exception):
        pass

    def killed(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Plots, "on_validation_batch_start", killed)
        with pytest.raises(Killed):
            load("train").train(cfg)
    last, plots = tmp_path / "checkpoints/last.ckpt", {"codes.png", "curve.png", "step_0000001.png"}
    assert last.is_file() and not (tmp_path / "plots").exists()
    value = load("train").train(cfg)
    records = torch.load(last, weights_only=True)["callbacks"]["ValHistory"]["records"]
    assert [record["step"] for record in records] == [0, 1] and records[1][cfg.task.monitor] == value
    assert {path.name for path in (tmp_path / "plots").iterdir()} == plots
    assert json.loads((tmp_path / "summary.json").read_text())["last"] == records[1]
    assert load("train").train(cfg) == value and "already finished" in caplog.text
