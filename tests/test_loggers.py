from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from waiting import eventually

from streamnest import loggers
from streamnest.errors import UserError
from streamnest.loggers import wandb_logger


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


def test_each_job_of_a_process_gets_a_run_of_its_own(tmp_path):
    for job in ("0", "1"):
        wandb_logger(str(tmp_path / job)).log_metrics({"loss": 1.0})
        assert len(list((tmp_path / job / "wandb").glob("offline-run-*"))) == 1


def test_jobs_of_a_multirun_share_a_group_and_single_runs_have_none(tmp_path, monkeypatch):
    assert loggers._sweep_group() is None
    config = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=SimpleNamespace(dir="logs/multiruns/2026-01-02/10-20-30"))
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    assert wandb_logger(str(tmp_path))._wandb_init["group"] == "2026-01-02_10-20-30"


def test_online_without_an_account_is_refused_instead_of_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(type(wandb.api), "api_key", None)
    with pytest.raises(UserError, match="wandb login"):
        wandb_logger(str(tmp_path), offline=False)


def test_the_environment_can_turn_it_off(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb_logger(str(tmp_path), offline=False).log_metrics({"loss": 1.0})
    assert not (tmp_path / "wandb").exists()
