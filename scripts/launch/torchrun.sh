#!/bin/bash
# One pretraining run on all GPUs of one machine, or of several, with torchrun; docs/LAUNCH.md explains it.
#
#     scripts/launch/torchrun.sh run_id=first experiment=nest_large data=shar ...
#     NNODES=4 NODE_RANK=0 MASTER_ADDR=node0 scripts/launch/torchrun.sh run_id=first trainer.num_nodes=4 ...
#
# Words are those of train.py. Ends with status 75 after SIGTERM or SIGUSR1, as train.py does: saved, start me again.
set -uo pipefail

PREEMPTED=75
# torchrun kills its processes when a signal is so old: a validation, a step and a checkpoint must fit.
SECONDS_TO_SAVE=${SECONDS_TO_SAVE:-300}
NNODES=${NNODES:-1}
where=(--standalone)
if [ "$NNODES" -gt 1 ]; then
  where=(--nnodes="$NNODES" --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}")
fi

preempted=0
launcher=
# torchrun passes SIGTERM on, and ends with 1 whatever its processes ended with.
trap 'preempted=1; [ -n "$launcher" ] && kill -TERM "$launcher"' TERM USR1
"${PYTHON:-python}" -m torch.distributed.run "${where[@]}" --nproc_per_node="${NPROC_PER_NODE:-gpu}" \
  --shutdown_timeout="$SECONDS_TO_SAVE" train.py trainer=ddp "$@" &
launcher=$!
wait "$launcher"
status=$?
# A signal ends `wait` early.
while kill -0 "$launcher" 2> /dev/null; do
  wait "$launcher"
  status=$?
done
[ "$preempted" -eq 1 ] && exit "$PREEMPTED"
exit "$status"
