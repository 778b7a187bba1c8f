#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# up - raise N hosts and a head on this machine, each with an sshd of its own.
#
#   tests/hosts/up.sh BASE N
#
# Environment, all optional:
#   LOGIN=name     log in as this user (root); one that the system does not have gets uid 4321
#   PREFIX=node    what host names begin with
#   FAST=1         curve25519 and no delayed ACKs: a login takes a quarter of the time
#   ALIASES=1000   also alias1 ... alias1000, which the sshd of the head serves; N may then be 0
#   DISK=64m       each host's /tmp is a file system of this size
#   SEEN="DIR..."  folders below /tmp that hosts are to see in their own /tmp
#   SSHD="-o ..."  more options of every sshd
#   ONE_KEY=1      one host key for all hosts
#   JOBS=2         hosts that start at the same time
#
# README.md tells the rest.  down.sh BASE undoes all of it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source-path=SCRIPTDIR source=bed.sh
. "$here/bed.sh"

[ $# -eq 2 ] || die 2 "usage: up.sh BASE N"
N=$2
case $N in '' | *[!0-9]*) die 2 "N must be a number" ;; esac
[ "$N" -le 1000 ] || die 2 "at most 1000 hosts: a bridge has 1024 ports"
[ "$(id -u)" = 0 ] || die 2 "only root can raise hosts"
for program in ip unshare nsenter setpriv ssh ssh-keygen; do
    command -v "$program" >/dev/null || die 2 "no program '$program'"
done
# shellcheck disable=SC2034 # written to the bed file below
SSHD_PATH=$(PATH=$PATH:/usr/sbin command -v sshd) || die 2 "no program 'sshd'"
mkdir -p "$1"
BASE=$(cd "$1" && pwd -P)
case $BASE in *[!A-Za-z0-9/._+-]*) die 2 "odd characters in '$BASE'" ;; esac
[ ! -e "$BASE/bed" ] || die 2 "$BASE: in use, try down.sh"
[ ! -e "$BASE/etc" ] || die 2 "$BASE/etc: in the way"

LOGIN=${LOGIN:-root} PREFIX=${PREFIX:-node} FAST=${FAST:-} DISK=${DISK:-} SEEN=${SEEN:-} SSHD=${SSHD:-}
ALIASES=${ALIASES:-0}
LOGIN_UID=4321 LOGIN_GID=4321 LOGIN_HOME=$BASE/home/$LOGIN
TAG=dsrun$(printf %s "$BASE" | cksum | cut -d' ' -f1)
if entry=$(getent passwd "$LOGIN"); then
    IFS=: read -r _ _ LOGIN_UID LOGIN_GID _ <<<"$entry"
fi

# What down.sh needs comes first.
echo $$ >"$BASE/up.pid"
for name in TAG PREFIX LOGIN LOGIN_UID LOGIN_GID LOGIN_HOME FAST DISK SEEN SSHD SSHD_PATH; do
    printf '%s=%q\n' "$name" "${!name}"
done >"$BASE/bed.new"
mv "$BASE/bed.new" "$BASE/bed"
trap 'echo "up.sh: failed; $BASE/hosts/*/log may say why, down.sh cleans up" >&2' ERR
mkdir -p "$BASE"/{bin,etc,hosts,home}
chmod 755 "$BASE" "$BASE"/{bin,etc,hosts,home}

# Hosts are 10.99.h.l, the head is 10.99.255.254.
names=(head) addresses=(10.99.255.254) macs=(02:99:00:00:ff:fe)
for ((i = 1; i <= N; i++)); do
    names+=("$PREFIX$i")
    addresses+=("10.99.$((i / 250)).$((i % 250 + 1))")
    macs+=("$(printf '02:99:00:00:%02x:%02x' $((i / 250)) $((i % 250 + 1)))")
done

make_keys() { # user key, host keys, known_hosts, the names that every host resolves
    local i folder type key
    ssh-keygen -q -t ed25519 -N '' -C login -f id_ed25519
    cp id_ed25519.pub authorized_keys
    [ -z "${ONE_KEY:-}" ] || ssh-keygen -q -t ed25519 -N '' -C hosts -f host_key
    mkdir over
    ln -s "$BASE/slurm/etc" over/slurm # dangles until slurm-up.sh
    echo "127.0.0.1 localhost" >over/hosts
    : >known_hosts
    : >hosts.list
    for ((i = 0; i <= N; i++)); do
        folder=$BASE/hosts/${names[i]}
        mkdir -p "$folder/etc"
        echo "${addresses[i]}" >"$folder/addr"
        echo "${macs[i]}" >"$folder/mac"
        echo "${names[i]}" >"$folder/etc/hostname"
        if [ -n "${ONE_KEY:-}" ]; then
            cp host_key "$folder/key"
            cp host_key.pub "$folder/key.pub"
        else
            ssh-keygen -q -t ed25519 -N '' -C "${names[i]}" -f "$folder/key"
        fi
        read -r type key _ <"$folder/key.pub"
        echo "${names[i]},${addresses[i]} $type $key" >>known_hosts
        echo "${addresses[i]} ${names[i]}" >>over/hosts
        [ "$i" -eq 0 ] || echo "${names[i]}" >>hosts.list
    done
    for ((i = 1; i <= ALIASES; i++)); do
        echo "127.1.$((i / 250)).$((i % 250 + 1)) alias$i" >>over/hosts
        echo "alias$i" >>aliases.list
    done
}

make_ssh_config() { # FILE KEY_FOLDER
    {
        [ "$ALIASES" -eq 0 ] || printf 'Host alias*\n  HostKeyAlias head\n'
        cat <<-X
	Host *
	  User $LOGIN
	  IdentityFile $2/id_ed25519
	  IdentitiesOnly yes
	  UserKnownHostsFile $2/known_hosts
	  GlobalKnownHostsFile /dev/null
	  StrictHostKeyChecking yes
	  BatchMode yes
	  ConnectTimeout 10
	X
        [ -z "$FAST" ] || echo "  KexAlgorithms curve25519-sha256"
    } >"$1"
}

make_sshd_config() { # StrictModes would refuse keys below a folder that all may write, such as /tmp
    cat >sshd_config <<-X
	Port 22
	ListenAddress 0.0.0.0
	AuthorizedKeysFile $BASE/etc/authorized_keys
	StrictModes no
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	KbdInteractiveAuthentication no
	UsePAM no
	UseDNS no
	PrintMotd no
	PrintLastLog no
	X
    [ "$ALIASES" -eq 0 ] || cat >>sshd_config <<-X
	MaxStartups 2000
	Match LocalAddress 127.1.0.0/16
	ForceCommand $BASE/bin/as-alias
	X
}

# A user list of the hosts' own, in which the login user has a home of its own: the real ~/.ssh and
# ~/.bashrc are never read.  '*' is no password and, other than '!', not a locked account to sshd.
make_login() {
    getent group "$LOGIN_GID" >/dev/null || { cat /etc/group; echo "$LOGIN:x:$LOGIN_GID:"; } >over/group
    { grep -v "^$LOGIN:" /etc/passwd || true; } >over/passwd
    echo "$LOGIN:*:$LOGIN_UID:$LOGIN_GID::$LOGIN_HOME:/bin/bash" >>over/passwd
    mkdir -p "$LOGIN_HOME/.ssh"
    make_ssh_config "$LOGIN_HOME/.ssh/config" "$LOGIN_HOME/.ssh"
    cp known_hosts id_ed25519 "$LOGIN_HOME/.ssh/"
    chmod 700 "$LOGIN_HOME" "$LOGIN_HOME/.ssh"
    chmod 600 "$LOGIN_HOME/.ssh/config"
    chown -R "$LOGIN_UID:$LOGIN_GID" "$LOGIN_HOME"
}

# The bridge lies in the head's network namespace, so the machine's own has no new address, route or
# device.  No IPv6: no waiting for duplicate addresses.  Neighbours are permanent: all namespaces share one
# table of 1024 dynamic ones.
make_network() {
    local i
    for ((i = 0; i <= N; i++)); do
        echo "netns add $TAG-${names[i]}"
    done | ip -batch -
    {
        echo "link add br0 address ${macs[0]} type bridge"
        for ((i = 1; i <= N; i++)); do
            echo "link add v$i type veth peer name eth0 address ${macs[i]} netns $TAG-${names[i]}"
            echo "link set v$i master br0 up"
        done
        echo "addr add ${addresses[0]}/16 dev br0"
        echo "link set lo up"
        echo "link set br0 up"
        for ((i = 1; i <= N; i++)); do
            echo "neigh replace ${addresses[i]} lladdr ${macs[i]} dev br0 nud permanent"
        done
        [ -z "$FAST" ] || echo "route replace 10.99.0.0/16 dev br0 src ${addresses[0]} quickack 1"
    } >head.ip
    ip netns exec "$TAG-head" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null || true
    ip -n "$TAG-head" -batch head.ip
}

make_commands() { # what users of the bed call
    printf '#!/bin/sh\nexec %q %q "$@"\n' "$here/on.sh" "$BASE" >"$BASE/bin/on"
    printf '#!/bin/sh\nexec %q %q "$@"\n' "$here/boot.sh" "$BASE" >"$BASE/bin/boot"
    printf '#!/bin/sh\nexec %q %q "$@"\n' "$here/fault.sh" "$BASE" >"$BASE/bin/fault"
    cat >"$BASE/bin/head" <<-X
	#!/bin/sh
	export HOME=$LOGIN_HOME USER=$LOGIN LOGNAME=$LOGIN
	exec $BASE/bin/on head setpriv --reuid=$LOGIN_UID --regid=$LOGIN_GID --init-groups -- "\$@"
	X
    cp "$here/alias.sh" "$BASE/bin/as-alias"
    chmod 755 "$BASE"/bin/*
}

cd "$BASE/etc"
make_keys
make_ssh_config ssh_config "$BASE/etc"
make_sshd_config
make_login
make_network
make_commands
"$BASE/bin/boot" head # first: its namespace holds the bridge
[ "$N" -eq 0 ] || xargs -P "${JOBS:-2}" -n 1 "$BASE/bin/boot" <hosts.list
rm "$BASE/up.pid"
echo "$N hosts are up; try: $BASE/bin/head ssh ${names[-1]} hostname"
