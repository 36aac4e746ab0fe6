"""Handling of signals and requeues on a cluster."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd

from streamnest.commands import train
from streamnest.distributed.cluster import trainer_plugins

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "streamnest", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
SLURM |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, LightningEnvironment),
        (SLURM, SLURMEnvironment),
        ({**SLURM, **TORCHRUN, "LOCAL_WORLD_SIZE": "1"}, TorchElasticEnvironment),
    ],
    ids=["alone", "slurm", "torchrun inside slurm"],
)
def test_the_launcher_is_recognized_and_lightning_never_requeues(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: type
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, barebones=True, plugins=trainer_plugins())
    environment = trainer._accelerator_connector.cluster_environment
    assert type(environment) is expected
    assert not getattr(environment, "auto_requeue", False)


@pytest.mark.parametrize("spec", [None, SimpleNamespace(name="streamnest.__main__")], ids=["script", "module"])
def test_other_ranks_run_the_training_command(monkeypatch: pytest.MonkeyPatch, spec: Any) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["streamnest train", "trainer=ddp_cpu"])
    train._let_lightning_start_ranks()
    assert _basic_subprocess_cmd() == [sys.executable, "-m", "streamnest.commands.train", "trainer=ddp_cpu"]
