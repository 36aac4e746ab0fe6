from __future__ import annotations

import csv
import errno
import logging
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from processes import eventually

from streamnest.errors import UserError
from streamnest.loggers import build as loggers
from streamnest.loggers.build import csv_logger, wandb_logger
from streamnest.loggers.wandb import UnfailingWandbLogger


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    yield
    wandb.finish()


def test_offline_runs_are_written_without_network_and_quietly(tmp_path, monkeypatch, capfd):
    def refuse(*_, **__):
        raise AssertionError("an offline run must not look for a host")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    logger = wandb_logger(str(tmp_path), name="run", tags=["a"])
    logger.log_metrics({"train/loss": 1.5}, step=3)
    logger.log_hyperparams({"encoder": {"d_model": 8}})
    wandb.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # W&B writes in a process of its own, which may come to it after `finish` has returned.
    assert eventually(lambda: b"train/loss" in run.read_bytes())
    assert capfd.readouterr() == ("", "")


def test_each_job_of_a_process_has_its_own_run(tmp_path):
    for job in ("0", "1"):
        wandb_logger(str(tmp_path / job)).log_metrics({"loss": 1.0})
        assert len(list((tmp_path / job / "wandb").glob("offline-run-*"))) == 1


def test_only_multirun_jobs_share_a_group(tmp_path, monkeypatch):
    assert loggers._sweep_group() is None
    config = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir="logs/multiruns/2026-01-02/10-20-30"))
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    assert wandb_logger(str(tmp_path))._wandb_init["group"] == "2026-01-02_10-20-30"


def test_online_logging_without_an_account_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(type(wandb.api), "api_key", None)
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(str(tmp_path), offline=False)


def test_the_environment_can_turn_it_off(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb_logger(str(tmp_path), offline=False).log_metrics({"loss": 1.0})
    assert not (tmp_path / "wandb").exists()


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*_, **__):
    raise FULL


def rows(folder):
    with (folder / "csv/metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_metrics_are_written_once_a_full_disk_has_space(tmp_path, monkeypatch, caplog):
    logger = csv_logger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=1)
    logger.save()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        opened = Path.open

        def full(path, mode="r", *args, **kwargs):
            file = opened(path, mode, *args, **kwargs)
            if mode != "r":
                file.write("half a line")  # what fits
                file.flush()
                patch.setattr(csv.DictWriter, "writerows", fail)
            return file

        patch.setattr(Path, "open", full)
        for step in (2, 3):
            logger.log_metrics({"a": 2.0, **({"b": 3.0} if step == 3 else {})}, step=step)
            logger.save()
        assert rows(tmp_path) == [{"a": 1.0, "step": 1.0}]
    assert caplog.text.count("training continues") == 1
    logger.log_metrics({"a": 4.0}, step=4)
    logger.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == [1.0, 2.0, 3.0, 4.0]
    assert rows(tmp_path)[2] == {"a": 2.0, "b": 3.0, "step": 3.0}


def test_a_disk_full_from_the_start_stops_no_run(tmp_path, monkeypatch):
    logger = csv_logger(str(tmp_path / "run"))
    monkeypatch.setattr("os.makedirs", fail)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_hyperparams({"a": 1})
    logger.save()
    logger.finalize("failed")


def test_a_wandb_that_cannot_write_stops_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", fail)
    logger = UnfailingWandbLogger(save_dir=str(tmp_path), offline=True)
    logger.experiment.log({"a": 1.0})
    logger.log_metrics({"a": 1.0})
    logger.summarize({})
    logger.finish()
    assert not logger.must_be_synced and "No space left" in logger.problems[0]
