"""What this project changes of Lightning's way to start, save and requeue runs."""

from __future__ import annotations

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from streamnest.checkpoint.resume import AtomicCheckpointIO


def trainer_plugins() -> list[CheckpointIO | ClusterEnvironment]:
    """Plugins of the trainer: checkpoints written whole or not at all; under SLURM, no requeue by Lightning.

    Left to itself Lightning answers SIGUSR1 inside a step with a checkpoint of its own, which a run without `run_id`
    would prefer to every other one, and with `scontrol requeue`. Here `StopOnSignal` saves, and the batch script
    requeues on its status: `scripts/launch/slurm.sh`.
    """
    under_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [AtomicCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if under_slurm else [])]
