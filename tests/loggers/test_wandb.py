"""A real W&B client with a server that is unreachable, slow, over quota or broken."""

from __future__ import annotations

import os

import processes
import pytest
import wandb
from processes import eventually
from runs import UNCHECKED
from servers import fake_wandb, free_port

from streamnest.loggers.build import wandb_logger

TRAIN = (
    "train.py",
    "debug=fast",
    "trainer=cpu",
    UNCHECKED,
    "trainer.max_steps=2",
    "logger=wandb",
    "threads=1",
    "~callbacks.plots",
)


@pytest.fixture(autouse=True)
def _account(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield
    wandb.finish()
    wandb.teardown()  # otherwise the next test would use the server of this one


def online(folder, monkeypatch, url, **timeouts):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    return wandb_logger(str(folder), offline=False, **{"init_timeout": 1.0, "finish_timeout": 1.0, **timeouts})


def stored(logger, words):
    """True once the separate process of W&B has written something."""
    (file,) = logger.folder.glob("run-*.wandb")
    return eventually(lambda: words in file.read_bytes())


@pytest.mark.parametrize("mode", ["refuses", "deaf", 403, 429, 500])
def test_a_run_that_the_server_rejects_is_written_offline(tmp_path, monkeypatch, caplog, mode):
    with fake_wandb(mode) as (url, _):
        url = f"http://127.0.0.1:{free_port()}" if mode == "refuses" else url
        logger = online(tmp_path, monkeypatch, url, finish_timeout=60.0)
        logger.log_metrics({"train/loss": 1.5}, step=3)
        logger.finish()
    assert logger.must_be_synced and "written offline" in logger.problems[0] and len(logger.problems) == 1
    assert logger.folder.name.startswith("offline-run-") and stored(logger, b"train/loss")
    assert caplog.text.count(f"wandb sync {logger.folder}") == 1
    assert "WANDB_MODE" not in os.environ, "the next job of a sweep tries again"


@pytest.mark.parametrize("mode", ["deaf", 403, 429, 500])
def test_a_later_server_failure_only_delays_the_upload(tmp_path, monkeypatch, caplog, mode):
    with fake_wandb() as (url, server):
        logger = online(tmp_path, monkeypatch, url, init_timeout=30.0)
        logger.log_metrics({"train/loss": 1.5}, step=3)
        assert not logger.must_be_synced
        server.mode = mode
        for step in range(20):
            logger.log_metrics({"train/loss": 1.0}, step=step)
        logger.finish()
    assert logger.must_be_synced and "not everything was sent" in logger.problems
    assert stored(logger, b"train/loss") and f"wandb sync {logger.folder}" in caplog.text
    logger.log_metrics({"train/loss": 1.0}, step=21)
    assert logger.failures["logging metrics"] == 1, "logging to a finished run fails without stopping training"


def test_failures_are_warned_about_once_and_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path))

    def fail(*_, **__):
        raise ConnectionResetError("the service is gone")

    monkeypatch.setattr(logger.experiment, "log", fail)
    for step in range(5):
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.log_media({"picture": 1})
    with monkeypatch.context() as patch:
        patch.setattr(logger.experiment, "finish", fail)
        logger.finish()
    assert logger.problems == [
        "5 x logging metrics failed",
        "5 x logging plots failed",
        "1 x finishing the run failed",
    ]
    assert caplog.text.count("ConnectionResetError: the service is gone") == 3


def test_nothing_is_logged_if_no_file_can_be_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path))

    def fail(*_, mode, **__):
        if mode == "disabled":
            return real(mode=mode)
        raise OSError("no space left")

    real = wandb.init
    monkeypatch.setattr(wandb, "init", fail)
    logger.log_metrics({"loss": 1.0}, step=1)
    assert "no space left" in caplog.text and not logger.failures


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuses", pytest.param("deaf", marks=pytest.mark.long)])
def test_training_completes_and_the_summary_reports_the_failure(tmp_path, mode):
    with fake_wandb(mode) as (url, _):
        url = f"http://127.0.0.1:{free_port()}" if mode == "refuses" else url
        words = (*TRAIN, f"paths.log_dir={tmp_path}", "logger.wandb.init_timeout=2", "logger.wandb.finish_timeout=2")
        done = processes.run(*words, env=os.environ | {"WANDB_BASE_URL": url})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "written offline" in done.stdout and "wandb sync" in done.stdout
