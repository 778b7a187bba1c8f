#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# fault - make hosts of a bed fail, and heal them.
#
#   tests/hosts/fault.sh BASE ACTION HOST...
#
#   network   unplug     pull the cable
#             drop       lose every packet, both ways; drop-in, drop-out: one way, as the host sees it
#             reject     answer new ssh connections with a reset
#             apart:NAME lose every packet to and from that one host
#             loss:P     lose P percent of the packets, both ways
#             slow:RATE  limit what the host receives, as in slow:1mbit
#   disk      fill       fill /tmp to the last byte (a bed with DISK only)
#   any       heal       undo all of the above
#   processes freeze     stop every process at one instant (cgroup2); thaw undoes it
#             stop       SIGSTOP to everything, one after the other; cont undoes it
#             hang-sshd  SIGSTOP to the listening sshd: connects, never answers; cont undoes it
#             killall    SIGKILL to everything but the listening sshd
#   host      kill       SIGKILL all: like an instant reboot; its address still answers "refused"
#             poweroff   unplug and kill: nothing answers any more
#             boot       after kill or poweroff
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
[ $# -ge 3 ] || { sed -n '/^#   tests/,/^set /p' "$0" | grep '^#' >&2; exit 2; }
bed_open "$1"
action=$2
shift 2

pid_of() {
    host_pid "$1" || die "'$1' is not up"
}

cable() { # HOST up|down
    ip -n "$TAG-head" link set "v${1#"$PREFIX"}" "$2"
}

filter() { # HOST RULE_IN RULE_OUT
    ip netns exec "$TAG-$1" nft -f - <<-X
	table inet fault
	delete table inet fault
	table inet fault {
		chain i { type filter hook input priority 0; iifname "lo" accept; $2; }
		chain o { type filter hook output priority 0; oifname "lo" accept; $3; }
	}
	X
}

signal_all() { # HOST SIGNAL: to all but pid 1 and the unshare that waits for it; again for late forks
    local pid skip _
    skip=" $(cat "$BASE/hosts/$1/pid" "$BASE/hosts/$1/outer" | tr '\n' ' ') "
    for _ in 1 2 3; do
        for pid in $(ip netns pids "$TAG-$1"); do
            case $skip in *" $pid "*) continue ;; esac
            kill "-$2" "$pid" 2>/dev/null || true
        done
    done
}

freezer() { # HOST 0|1
    [ -s "$BASE/hosts/$1/cgroup" ] || die "no cgroup2 here: use stop and cont"
    echo "$2" >"$(<"$BASE/hosts/$1/cgroup")/cgroup.freeze"
}

fill() { # HOST
    [ -n "$DISK" ] || die "fill needs a bed raised with DISK"
    "$here/on.sh" "$BASE" "$1" sh -c 'cat /dev/zero 2>/dev/null >/tmp/.full || true'
}

heal() { # HOST
    cable "$1" up
    ip netns exec "$TAG-$1" nft delete table inet fault 2>/dev/null || true
    tc -n "$TAG-head" qdisc del dev "v${1#"$PREFIX"}" root 2>/dev/null || true
    if [ -n "$DISK" ] && host_pid "$1" >/dev/null; then
        "$here/on.sh" "$BASE" "$1" rm -f /tmp/.full
    fi
}

for host in "$@"; do
    grep -qxF -- "$host" "$BASE/etc/hosts.list" || die 2 "no host '$host'"
    percent="numgen random mod 100 < ${action#*:} drop"
    case $action in
    unplug) cable "$host" down ;;
    drop) filter "$host" drop drop ;;
    drop-in) filter "$host" drop accept ;;
    drop-out) filter "$host" accept drop ;;
    apart:*)
        grep -qxF -- "${action#*:}" "$BASE/etc/hosts.list" || die 2 "no host '${action#*:}'"
        address=$(<"$BASE/hosts/${action#*:}/addr")
        filter "$host" "ip saddr $address drop" "ip daddr $address drop"
        ;;
    reject) filter "$host" "tcp dport 22 tcp flags & (syn|ack) == syn reject with tcp reset" accept ;;
    loss:*) filter "$host" "$percent" "$percent" ;;
    slow:*)
        tc -n "$TAG-head" qdisc replace dev "v${host#"$PREFIX"}" root tbf rate "${action#*:}" burst 16kb latency 500ms
        ;;
    fill) fill "$host" ;;
    heal) heal "$host" ;;
    freeze) freezer "$host" 1 ;;
    thaw) freezer "$host" 0 ;;
    stop)
        kill -STOP "$(pid_of "$host")"
        signal_all "$host" STOP
        ;;
    cont)
        signal_all "$host" CONT
        kill -CONT "$(pid_of "$host")"
        ;;
    hang-sshd) kill -STOP "$(pid_of "$host")" ;;
    killall) signal_all "$host" KILL ;;
    kill) kill -KILL "$(pid_of "$host")" ;;
    poweroff)
        pid=$(pid_of "$host")
        cable "$host" down
        kill -KILL "$pid"
        ;;
    boot)
        cable "$host" up
        "$here/boot.sh" "$BASE" "$host"
        ;;
    *) die 2 "no action '$action'" ;;
    esac
done
