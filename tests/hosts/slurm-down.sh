#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# slurm-down - stop the Slurm of a bed; the hosts stay.
#
#   tests/hosts/slurm-down.sh BASE       KEEP=1 keeps the files, for their logs
#
# Safe to repeat.  Not needed before down.sh, which ends everything.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -eq 1 ] || die 2 "usage: slurm-down.sh BASE"
bed_open "$1"
slurm=$BASE/slurm
[ -d "$slurm" ] || exit 0

# Jobs first, then the daemons by their pid files, which hold pids of the host's own pid namespace.
"$BASE/bin/on" head timeout 10 scancel --full -s KILL -p test >/dev/null 2>&1 || true
"$BASE/bin/on" head timeout 10 scancel -p test >/dev/null 2>&1 || true
for ((try = 0; try < 100; try++)); do
    [ -n "$("$BASE/bin/on" head timeout 10 squeue -h 2>/dev/null || true)" ] || break
    sleep 0.1
done
while read -r node; do
    "$BASE/bin/on" "$node" sh -c "kill \$(cat $slurm/run/slurmd.$node.pid); pkill -KILL slurmstepd" 2>/dev/null || true
done <"$BASE/etc/hosts.list"
for daemon in slurmctld munged; do
    "$BASE/bin/on" head sh -c "kill \$(cat $slurm/run/$daemon.pid)" 2>/dev/null || true
done
for ((try = 0; try < 100; try++)); do
    compgen -G "$slurm/run/*.pid" >/dev/null || break
    sleep 0.1
done
[ -n "${KEEP:-}" ] || rm -rf --one-file-system "$slurm" "$BASE/bin/slurmd"
