#!/bin/bash
# Trains on SLURM and continues after time limits and preemption; docs/LAUNCH.md has details.
#
#     sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 scripts/launch/slurm.sh experiment=nest_large data=shar ...
#
# Arguments after the script are those of train.py. Options of sbatch go before it and override the lines below.
#SBATCH --job-name=streamnest
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
# One process per GPU.
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
# The same job may start again, with the same job id.
#SBATCH --requeue
# Signals the training processes, not this shell, 5 minutes before the limit: time for a validation, a step, a checkpoint.
#SBATCH --signal=USR1@300
set -uo pipefail

# Exit status of train.py after SIGUSR1 or SIGTERM: it saved a checkpoint and can be started again.
PREEMPTED=75
# Preemption signals this shell as well, which has to run until the processes end, to requeue them.
trap : TERM USR1

# --wait: after one process ends, the others get this many seconds; after a crash they would wait forever.
srun --wait=600 "${PYTHON:-python}" train.py \
  run_id="$SLURM_JOB_ID" trainer=ddp trainer.num_nodes="$SLURM_NNODES" "$@"
status=$?
if [ "$status" -eq "$PREEMPTED" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
