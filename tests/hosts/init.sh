#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# init - becomes pid 1 of a host: in its new namespaces it sets up what a host sees, then it is sshd.
# Called by boot.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"
bed_open "$1"
host=$2
folder=$BASE/hosts/$host
read -r pid _ </proc/self/stat # /proc is still the caller's: our pid as seen from outside
echo "$pid" >"$folder/pid"
hostname "$host"

# This machine's cgroups stay visible where they were, below the host's own /sys.
mkdir -p "$folder/cgroups"
mount --rbind /sys/fs/cgroup "$folder/cgroups"
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount --rbind "$folder/cgroups" /sys/fs/cgroup
umount -l "$folder/cgroups"

if [ "$host" != head ]; then
    mount -t proc -o nosuid,nodev,noexec proc /proc
    echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || true
    read -r address <"$folder/addr"
    {
        echo "link set lo up"
        echo "addr replace $address/16 dev eth0"
        echo "link set eth0 up"
        echo "neigh replace $(cat "$BASE/hosts/head/addr") lladdr $(cat "$BASE/hosts/head/mac") dev eth0 nud permanent"
        [ -z "$FAST" ] || echo "route replace 10.99.0.0/16 dev eth0 src $address quickack 1"
    } | ip -batch -
fi

# Own /etc/hosts, hostname, passwd and group by a read-only overlay.  Single files mounted over those of the
# machine would vanish when a program outside replaces one by rename.
mount -t overlay overlay -o "ro,lowerdir=$folder/etc:$BASE/etc/over:/etc" /etc
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir /run/sshd
mkdir -p "$folder/tmp"
[ -z "$DISK" ] || mount -t tmpfs -o "mode=1777,size=$DISK" disk "$folder/tmp"
chmod 1777 "$folder/tmp"
for shown in "$BASE" "$here" $SEEN; do
    case $shown in
    /tmp/*)
        mkdir -p "$folder/tmp/${shown#/tmp/}"
        mount --rbind "$shown" "$folder/tmp/${shown#/tmp/}"
        ;;
    esac
done
mount --rbind "$folder/tmp" /tmp

cd /
# shellcheck disable=SC2086 # options, one a word
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$SSHD_PATH" -D -e \
    -f "$BASE/etc/sshd_config" -h "$folder/key" -o PidFile="$folder/sshd.up" $SSHD
