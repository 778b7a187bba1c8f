# shellcheck shell=bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# bed - what the scripts of this folder share: where a bed is, what it was raised with, its host names.
# Sourced, never run.  README.md says what a bed is.

die() { # [STATUS] SENTENCE
    local status=1
    case $1 in [0-9]*) status=$1; shift ;; esac
    echo "${0##*/}: $*" >&2
    exit "$status"
}

# Sets BASE from a folder that up.sh has raised a bed in, and reads what it was raised with:
# TAG, PREFIX, LOGIN and its LOGIN_UID LOGIN_GID LOGIN_HOME, FAST, DISK, SEEN, SSHD.
bed_open() { # FOLDER
    BASE=$(cd "$1" 2>/dev/null && pwd -P) || die 2 "$1: no such folder"
    [ -s "$BASE/bed" ] || die 2 "$1: no bed was raised here"
    # shellcheck disable=SC1091 # written by up.sh
    . "$BASE/bed"
    case $TAG in dsrun[0-9]*) ;; *) die 2 "$BASE/bed: damaged" ;; esac
}

# The process that is pid 1 of a host, as seen from outside; fails when the host is down.  The number may
# be another process's by now, so its network namespace is compared.
host_pid() { # HOST
    local pid
    { read -r pid <"$BASE/hosts/$1/pid"; } 2>/dev/null || return 1
    [ "/proc/$pid/ns/net" -ef "/run/netns/$TAG-$1" ] || return 1
    echo "$pid"
}

# The cgroup2 folder under which hosts get theirs, where this machine has one.
cgroup_root() {
    local root
    for root in /sys/fs/cgroup/unified /sys/fs/cgroup; do
        [ ! -e "$root/cgroup.controllers" ] || { echo "$root"; return 0; }
    done
    return 1
}
