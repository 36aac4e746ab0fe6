#!/bin/bash
# A SLURM of one node on this machine, for tests: `testbed.sh start|stop FOLDER`, as root, without systemd or cgroups.
# Needs munge, slurmctld, slurmd and slurm-client of Debian or Ubuntu. Commands find it by SLURM_CONF=FOLDER/slurm.conf.
set -euo pipefail
ROOT=$2
export SLURM_CONF=$ROOT/slurm.conf

configure() {
  mkdir -p "$ROOT/state" "$ROOT/spool"
  # munge refuses folders that others may write to.
  chmod 755 "$ROOT"
  head -c 1024 /dev/urandom > "$ROOT/munge.key"
  chmod 600 "$ROOT/munge.key"
  local host memory
  host=$(hostname -s)
  memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 256))
  # cred_expire is how long a job waits for its requeue: 120 s by default. config_overrides: more cores than there are.
  cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$ROOT/munge.socket,cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$ROOT/slurmctld.pid
SlurmdPidFile=$ROOT/slurmd.pid
SlurmctldLogFile=$ROOT/slurmctld.log
SlurmdLogFile=$ROOT/slurmd.log
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=30
InactiveLimit=0
Waittime=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=$host Default=YES DefaultTime=10 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=$host DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

start() {
  configure
  munged --key-file="$ROOT/munge.key" --socket="$ROOT/munge.socket" --pid-file="$ROOT/munged.pid" \
    --log-file="$ROOT/munged.log" --seed-file="$ROOT/munged.seed"
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  for _ in $(seq 1 120); do
    [ "$(sinfo --noheader --format=%T --partition=low 2> /dev/null)" = idle ] && return 0
    sleep 0.25
  done
  echo "the node is not idle after 30 s; see $ROOT/slurmctld.log and slurmd.log" >&2
  return 1
}

stop() {
  for daemon in slurmd slurmctld munged; do
    [ -s "$ROOT/$daemon.pid" ] || continue
    pid=$(cat "$ROOT/$daemon.pid")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 1 40); do
      kill -0 "$pid" 2> /dev/null || break
      sleep 0.25
    done
  done
}

"$1"
