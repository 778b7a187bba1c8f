#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# on - run a command inside a host as root, without ssh.
#
#   tests/hosts/on.sh BASE HOST COMMAND...
#
# The working directory is kept where the host has it.  125 when the host is down.  Signals do not get
# through to a host's pid namespace; they do on the head, where the command is the caller's own child.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -ge 3 ] || die 125 "usage: on.sh BASE HOST COMMAND..."
bed_open "$1"
host=$2
shift 2
pid=$(host_pid "$host") || die 125 "'$host' is not up"
[ ! -e "$BASE/hosts/$host/cgroup" ] || echo 0 >"$(<"$BASE/hosts/$host/cgroup")/cgroup.procs"
pid_namespace=(-p)
[ "$host" != head ] || pid_namespace=()
# shellcheck disable=SC2016 # for the inner shell
exec nsenter -t "$pid" -n -u -i -m "${pid_namespace[@]}" -- \
    sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
