#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# boot - start one host of a bed, the first time or again after fault.sh killed it.
#
#   tests/hosts/boot.sh BASE HOST
#
# The head has no pid namespace of its own: what runs there through BASE/bin/head is a plain child of the
# caller, with its pid, its signals and its exit status.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -eq 2 ] || die 2 "usage: boot.sh BASE HOST"
bed_open "$1"
host=$2
folder=$BASE/hosts/$host
[ -d "$folder" ] || die 2 "no host '$host'"
! host_pid "$host" >/dev/null || die "'$host' is up"
rm -f "$folder/sshd.up" "$folder/cgroup"
if root=$(cgroup_root) && mkdir -p "$root/$TAG/$host" 2>/dev/null &&
    echo "$BASHPID" 2>/dev/null >"$root/$TAG/$host/cgroup.procs"; then
    echo "$root/$TAG/$host" >"$folder/cgroup"
fi
pid_namespace=(--pid --fork --kill-child)
[ "$host" != head ] || pid_namespace=()
# A session of its own: an interrupt at the caller's terminal is not for the host.
setsid nsenter --net="/run/netns/$TAG-$host" unshare --uts --ipc --mount "${pid_namespace[@]}" \
    "$here/init.sh" "$BASE" "$host" </dev/null >>"$folder/log" 2>&1 &
echo $! >"$folder/outer"
for ((try = 0; try < 3000; try++)); do
    [ ! -e "$folder/sshd.up" ] || exit 0
    kill -0 $! 2>/dev/null || { tail -n 3 "$folder/log" >&2; die "'$host' did not start"; }
    sleep 0.01
done
die "'$host': no sshd after 30 s"
