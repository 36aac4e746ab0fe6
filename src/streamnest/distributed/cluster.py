"""Plugins of the trainer that change how Lightning starts, saves and requeues runs."""

from __future__ import annotations

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.checkpoint.resume import AtomicCheckpointIO


def trainer_plugins(stored: StoredCheckpoint | None = None) -> list[CheckpointIO | ClusterEnvironment]:
    """Returns plugins of the trainer: atomic checkpoints and, under SLURM, no requeue by Lightning.

    By default, Lightning handles SIGUSR1 within a step with a checkpoint of its own, which a run without `run_id` would
    prefer to every other one, and with `scontrol requeue`. Here `StopOnSignal` saves, and the batch script requeues
    depending on the exit status: `scripts/launch/slurm.sh`.

    Args:
        stored: checkpoint to continue from.
    """
    under_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [AtomicCheckpointIO(stored), *([SLURMEnvironment(auto_requeue=False)] if under_slurm else [])]
