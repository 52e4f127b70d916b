#!/usr/bin/env bash
# slurm.sh install|start|stop FOLDER: a real Slurm on this machine alone, for tests.
#
# Two virtual nodes with two pretended GPUs and four CPUs each (there is no device behind a GPU; jobs get their
# CUDA_VISIBLE_DEVICES). Everything is written to FOLDER: configuration, keys, state and logs; clients find it through
# SLURM_CONF=FOLDER/slurm.conf. Needs root. `install` takes Slurm from Debian's packages; nothing else installs anything.
set -euo pipefail

packages=(slurmctld slurmd slurm-client munge)

install() {
  local policy=/usr/sbin/policy-rc.d  # keeps the packages from starting daemons of their own
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; trap "rm -f $policy" EXIT; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
}

wait_for() { # seconds, command...
  local tries=$(($1 * 10)); shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1)); [ "$tries" -gt 0 ] || { echo "gave up: $*" >&2; return 1; }
    sleep 0.1
  done
}

configure() {
  local host user memory
  host=$(hostname -s) user=$(id -un)
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.4)}' /proc/meminfo)
  mkdir -p "$folder"/{state,spool/n0,spool/n1,log,pid,gpu}
  for gpu in "$folder"/gpu/fake{0,1}; do [ -e "$gpu" ] || mknod "$gpu" c 1 3; done # as /dev/null
  cat >"$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/pid/slurmctld.pid
SlurmdPidFile=$folder/pid/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
InactiveLimit=0
MaxArraySize=101
OverTimeLimit=0
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=$memory Gres=gpu:2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=$memory Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=600 State=UP PriorityTier=10 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=600 State=UP PriorityTier=20 PreemptMode=OFF
END
  printf 'NodeName=n%s Name=gpu File=%s/gpu/fake[0-1]\n' 0 "$folder" 1 "$folder" >"$folder/gres.conf"
  echo 'CgroupAutomount=no' >"$folder/cgroup.conf" # containers often have no writable control groups
}

start() {
  configure
  (umask 077; [ -s "$folder/munge.key" ] || head -c 1024 /dev/urandom >"$folder/munge.key")
  chmod 755 "$folder" # munged refuses a socket in a folder that others can write
  /usr/sbin/munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
    --pid-file="$folder/pid/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
  slurmctld -c
  wait_for 20 sh -c 'scontrol ping | grep -q UP'
  slurmd -c -N n0
  slurmd -c -N n1
  wait_for 30 sh -c '[ "$(sinfo -h -N -p main -t idle -o %N | wc -l)" = 2 ]'
}

stop() {
  [ -e "$folder/slurm.conf" ] || return 0
  scancel -u "$(id -un)" 2>/dev/null || true
  local file pid
  for file in "$folder"/pid/{slurmd.n0,slurmd.n1,slurmctld,munged}.pid; do
    [ -s "$file" ] || continue
    pid=$(cat "$file"); kill "$pid" 2>/dev/null || true
    wait_for 15 sh -c "! kill -0 $pid || grep -q '^[^)]*) Z' /proc/$pid/stat" || kill -9 "$pid" 2>/dev/null || true
  done
}

case "${1:-}" in
  install) install ;;
  start | stop)
    folder=$(realpath -m "${2:?the folder to write to}") port=${PORT:-26817}
    export SLURM_CONF=$folder/slurm.conf
    "$1"
    ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
