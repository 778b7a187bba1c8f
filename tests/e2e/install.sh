#!/bin/sh
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# install - install into an empty tree, run from there, uninstall: the tree is empty again.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 70
B=${B:-build}
tree=$(mktemp -d "${TMPDIR:-/tmp}/dsrun-install.XXXXXX") || exit 70
trap 'rm -rf "$tree"' EXIT
count=0 failed=0

ok() { # NAME COMMAND...
    name=$1
    shift
    count=$((count + 1))
    if "$@" >"$tree.log" 2>&1; then
        echo "ok $count - $name"
    else
        failed=1
        echo "not ok $count - $name"
        sed 's/^/#   /' "$tree.log"
    fi
    rm -f "$tree.log"
}

version_is() { # PROGRAM: its --version names the VERSION file's number
    "$1" --version | grep -qF "$(cat VERSION)"
}

make_quietly() {
    make -s B="$B" "$@" # MAKEFLAGS, where there is one, carries the flags of this build
}

empty() { # DIRECTORY is there and holds nothing
    [ -d "$1" ] && [ -z "$(find "$1" -mindepth 1)" ]
}

ok 'install with PREFIX and DESTDIR' make_quietly install PREFIX=/opt/x DESTDIR="$tree/a"
mkdir -p "$tree/a"
ok 'nothing outside the prefix' test -z "$(find "$tree/a" -mindepth 1 -not -path "$tree/a/opt*")"
ok 'dsrun runs from there' version_is "$tree/a/opt/x/bin/dsrun"
ok 'the agent is there' test -x "$tree/a/opt/x/libexec/dsrun/dsrun-agent"
ok 'the worker is there' test -x "$tree/a/opt/x/libexec/dsrun/dsrun-worker"
ok 'man page' test -s "$tree/a/opt/x/share/man/man1/dsrun.1"
ok 'completion' bash -n "$tree/a/opt/x/share/bash-completion/completions/dsrun"
ok 'completion of zsh' grep -qx '#compdef dsrun' "$tree/a/opt/x/share/zsh/site-functions/_dsrun"
ok 'uninstall' make_quietly uninstall PREFIX=/opt/x DESTDIR="$tree/a"
mkdir -p "$tree/a"
ok 'the tree is empty after uninstall' empty "$tree/a"

mkdir "$tree/b"
ok 'install with small letters' make_quietly install prefix="$tree/b" bindir="$tree/b/tools"
ok 'bindir is honoured' version_is "$tree/b/tools/dsrun"
ok 'uninstall' make_quietly uninstall prefix="$tree/b" bindir="$tree/b/tools"
ok 'the prefix is empty after uninstall' empty "$tree/b"

echo "1..$count"
exit "$failed"
