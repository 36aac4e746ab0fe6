#!/bin/bash
# Trains on all GPUs of one or several machines with torchrun; docs/LAUNCH.md has details.
#
#     scripts/launch/torchrun.sh run_id=first experiment=nest_large data=shar ...
#     NNODES=4 NODE_RANK=0 MASTER_ADDR=node0 scripts/launch/torchrun.sh run_id=first trainer.num_nodes=4 ...
#
# Arguments are those of train.py. After SIGTERM or SIGUSR1 the exit status is 75, as for train.py: a checkpoint was saved,
# and the run can be started again.
set -uo pipefail

PREEMPTED=75
# torchrun kills its processes this long after a signal: time for a validation, a step and a checkpoint.
SECONDS_TO_SAVE=${SECONDS_TO_SAVE:-300}
NNODES=${NNODES:-1}
where=(--standalone)
if [ "$NNODES" -gt 1 ]; then
  where=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}")
fi

preempted=0
launcher=
# torchrun forwards SIGTERM, and exits with 1 for any exit status of its processes.
trap 'preempted=1; [ -n "$launcher" ] && kill -TERM "$launcher"' TERM USR1
"${PYTHON:-python}" -m torch.distributed.run "${where[@]}" --nproc_per_node="${NPROC_PER_NODE:-gpu}" \
  --shutdown_timeout="$SECONDS_TO_SAVE" train.py trainer=ddp "$@" &
launcher=$!
wait "$launcher"
status=$?
# A signal interrupts `wait`.
while kill -0 "$launcher" 2> /dev/null; do
  wait "$launcher"
  status=$?
done
[ "$preempted" -eq 1 ] && exit "$PREEMPTED"
exit "$status"
