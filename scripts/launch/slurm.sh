#!/bin/bash
# One pretraining run on SLURM that survives time limits and preemption; docs/LAUNCH.md explains it.
#
#     sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 scripts/launch/slurm.sh experiment=nest_large data=shar ...
#
# Words after the script are those of train.py. Options of sbatch go before it and override the lines below.
#SBATCH --job-name=streamnest
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
# One process a GPU.
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
# The same job, with the same number, may start again.
#SBATCH --requeue
# To the training processes (not to this shell) 5 minutes before the limit: a validation, a step and a checkpoint must fit.
#SBATCH --signal=USR1@300
set -uo pipefail

# What train.py ends with after SIGUSR1 or SIGTERM: saved, start me again.
PREEMPTED=75
# Preemption signals this shell as well, which must outlive the processes to requeue them.
trap : TERM USR1

# --wait: when one process has ended, the others get this long; after a crash they would wait for it for ever.
srun --wait=600 "${PYTHON:-python}" train.py \
  run_id="$SLURM_JOB_ID" trainer=ddp trainer.num_nodes="$SLURM_NNODES" "$@"
status=$?
if [ "$status" -eq "$PREEMPTED" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
