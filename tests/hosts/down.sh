#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# down - stop every host of a bed and remove its namespaces, cgroups and files.
#
#   tests/hosts/down.sh BASE       KEEP=1 keeps the files, for their logs
#
# Safe to repeat, and after an up.sh that failed or was killed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -eq 1 ] || die 2 "usage: down.sh BASE"
[ -d "$1" ] || exit 0
BASE=$(cd "$1" && pwd -P)
if [ ! -e "$BASE/bed" ]; then # an up.sh that was killed at once
    rm -f "$BASE/bed.new" "$BASE/up.pid"
    rmdir "$BASE" 2>/dev/null || true
    exit 0
fi
bed_open "$1"

kill_tree() { # PID
    local child
    for child in $(pgrep -P "$1"); do
        kill_tree "$child"
    done
    kill -KILL "$1" 2>/dev/null || true
}

# An up.sh that is still at work, its caller gone, must end first.
if read -r pid 2>/dev/null <"$BASE/up.pid" && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q 'up\.sh'; then
    kill -STOP "$pid" 2>/dev/null || true
    kill_tree "$pid"
fi

names=()
for name in /run/netns/"$TAG"-*; do
    [ ! -e "$name" ] || names+=("${name##*/}")
done

thaw() { # HOST: what is frozen would not die
    local group
    { read -r group <"$BASE/hosts/$1/cgroup"; } 2>/dev/null || return 0
    [ ! -e "$group/cgroup.freeze" ] || echo 0 >"$group/cgroup.freeze"
    [ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
}

# Killing pid 1 of a pid namespace kills all in it.  The processes of our network namespaces are found by
# asking the kernel, so pid files may be missing and a stranger is never hit.
for ((try = 0; try < 100 && ${#names[@]} > 0; try++)); do
    pids=()
    for name in "${names[@]}"; do
        thaw "${name#"$TAG"-}"
        while read -r pid; do pids+=("$pid"); done < <(ip netns pids "$name" 2>/dev/null || true)
    done
    [ ${#pids[@]} -gt 0 ] || break
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.05
done

for name in "${names[@]}"; do # cables and bridge go with them
    echo "netns del $name"
done | ip -batch -

if root=$(cgroup_root) && [ -d "$root/$TAG" ]; then # removable when the last process is reaped
    for ((try = 0; try < 100; try++)); do
        ! find "$root/$TAG" -depth -type d -exec rmdir {} + 2>/dev/null || break
        sleep 0.05
    done
fi

if [ -n "${KEEP:-}" ]; then
    rm -f "$BASE/bed" "$BASE/up.pid"
    exit 0
fi
rm -rf --one-file-system "${BASE:?}"/{bin,etc,hosts,home,slurm,bed,bed.new,up.pid}
rmdir "$BASE" 2>/dev/null || true
