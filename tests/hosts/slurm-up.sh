#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# slurm-up - a real Slurm on the hosts of a bed: munged and slurmctld on the head, slurmd on each host.
#
#   tests/hosts/slurm-up.sh BASE        BASE holds a bed that up.sh has raised
#
# Environment, all optional:
#   CPUS=4               what each node claims to have; "4 8 2" gives node1 4, node2 8, the others 2
#   GPUS=0               device files that each node claims to be GPUs
#   SLURM_CONF_MORE=...  more lines of slurm.conf
#
# Nothing of the system is used: own munge key and socket, own slurm.conf, which the hosts see as
# /etc/slurm/slurm.conf; no systemd, no user "slurm" or "munge".
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -eq 1 ] || die 2 "usage: slurm-up.sh BASE"
bed_open "$1"
PATH=$PATH:/usr/sbin
for program in slurmctld slurmd munged scontrol; do
    command -v "$program" >/dev/null || die 2 "no program '$program'"
done
slurm=$BASE/slurm
[ ! -e "$slurm" ] || die 2 "a Slurm is up under $BASE"
mkdir -p "$slurm"/{etc,log,run,state,spool}
chmod 755 "$slurm" "$slurm"/*
trap 'echo "slurm-up.sh: failed; $slurm/log may say why, slurm-down.sh cleans up" >&2' ERR
nodes=$(wc -l <"$BASE/etc/hosts.list")
gpus=${GPUS:-0}
read -ra cpus <<<"${CPUS:-4}"

# A credential's life (cred_expire) is also how long a requeued job waits: 120 s where nothing is said.
# Nodes may claim more CPUs than this machine has (config_overrides).  No cgroups, no accounting, no MPI.
write_conf() {
    cat <<-X
	ClusterName=test
	SlurmctldHost=head($(cat "$BASE/hosts/head/addr"))
	SlurmUser=root
	SlurmdUser=root
	AuthType=auth/munge
	CredType=cred/munge
	AuthInfo=socket=$slurm/run/munge.sock,cred_expire=5
	StateSaveLocation=$slurm/state
	SlurmdSpoolDir=$slurm/spool/%n
	SlurmctldPidFile=$slurm/run/slurmctld.pid
	SlurmdPidFile=$slurm/run/slurmd.%n.pid
	SlurmctldLogFile=$slurm/log/slurmctld
	SlurmdLogFile=$slurm/log/slurmd.%n
	SlurmdParameters=config_overrides
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	AccountingStorageType=accounting_storage/none
	SwitchType=switch/none
	MpiDefault=none
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	KillWait=3
	ReturnToService=2
	SlurmdTimeout=15
	SlurmctldTimeout=15
	MessageTimeout=10
	TCPTimeout=2
	InactiveLimit=0
	MinJobAge=300
	JobRequeue=1
	SchedulerType=sched/backfill
	SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
	X
    [ -z "${SLURM_CONF_MORE:-}" ] || printf '%s\n' "$SLURM_CONF_MORE"
    [ "$gpus" -eq 0 ] || echo "GresTypes=gpu"
    local node count i=0 gres=
    [ "$gpus" -eq 0 ] || gres=" Gres=gpu:$gpus"
    while read -r node; do
        count=${cpus[i]:-${cpus[-1]}}
        i=$((i + 1))
        echo "NodeName=$node NodeAddr=$(cat "$BASE/hosts/$node/addr") CPUs=$count$gres State=UNKNOWN"
    done <"$BASE/etc/hosts.list"
    echo "PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
}

(umask 077 && head -c 1024 /dev/urandom >"$slurm/etc/munge.key")
write_conf >"$slurm/etc/slurm.conf"
# slurmd 22.05 wants a cgroup plugin even where nothing uses one; this one does nothing until it is used.
echo "CgroupPlugin=cgroup/v1" >"$slurm/etc/cgroup.conf"
if [ "$gpus" -gt 0 ]; then # slurmd takes device files only: copies of /dev/null
    mkdir "$slurm/gpu"
    for ((i = 0; i < gpus; i++)); do
        mknod -m 666 "$slurm/gpu/$i" c 1 3
    done
    printf 'AutoDetect=off\nName=gpu File=%s/gpu/[0-%d]\n' "$slurm" $((gpus - 1)) >"$slurm/etc/gres.conf"
fi
while read -r node; do
    mkdir "$slurm/spool/$node"
done <"$BASE/etc/hosts.list"

cat >"$BASE/bin/slurmd" <<-X
	#!/bin/sh
	# slurmd HOST: start slurmd there, also after the host was booted again; returns when it is ready
	exec $BASE/bin/on "\$1" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
	    slurmd -N "\$1" </dev/null >>$slurm/log/slurmd.\$1.out 2>&1
	X
chmod 755 "$BASE/bin/slurmd"
cd /
# One munged serves all: a socket in the file system does not care about network namespaces.
"$BASE/bin/on" head munged --force --num-threads=2 --socket="$slurm/run/munge.sock" \
    --key-file="$slurm/etc/munge.key" --log-file="$slurm/log/munged" --pid-file="$slurm/run/munged.pid" \
    --seed-file="$slurm/run/munged.seed" 2>"$slurm/log/munged.out"
"$BASE/bin/on" head slurmctld -i </dev/null >"$slurm/log/slurmctld.out" 2>&1
xargs -P 2 -n 1 "$BASE/bin/slurmd" <"$BASE/etc/hosts.list"

idle=0
for ((try = 0; try < 600 && idle != nodes; try++)); do
    sleep 0.1
    idle=$("$BASE/bin/on" head sinfo -h -r -t idle -o %D 2>/dev/null || true)
    idle=${idle:-0}
done
[ "$idle" = "$nodes" ] || { "$BASE/bin/on" head sinfo -N -l >&2; die "only $idle of $nodes nodes are idle"; }
echo "Slurm is up on $nodes nodes; try: $BASE/bin/head srun -N$nodes hostname"
