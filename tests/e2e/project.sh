#!/bin/sh
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# project - the promises of the build: user flags last, missing packages named, hooks that hold.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 70
work=$(mktemp -d "${TMPDIR:-/tmp}/dsrun-project.XXXXXX") || exit 70
trap 'rm -rf "$work"' EXIT
count=0 failed=0

ok() { # NAME COMMAND...
    name=$1
    shift
    count=$((count + 1))
    if "$@" >"$work/log" 2>&1; then
        echo "ok $count - $name"
    else
        failed=1
        echo "not ok $count - $name"
        sed 's/^/#   /' "$work/log" | tail -n 20
    fi
}

# Every compile and link line of a dry run, with flags of the user's own.
dry_run() {
    mkdir -p "$work/b"
    touch "$work/b/deps-build.ok" "$work/b/deps-test.ok"
    env -u MAKEFLAGS -u MAKELEVEL make -n V=1 B="$work/b" CC=gcc CPPFLAGS=-DUSER_CPP CFLAGS=-O1 \
        LDFLAGS=-Wl,-O1 LDLIBS=-lrt programs
}

flags_last() { # compile lines end in the user's CFLAGS; nothing of ours that they could lose to follows
    dry_run >"$work/lines" || return 1
    grep -E ' -c -o ' "$work/lines" >"$work/compile"
    [ -s "$work/compile" ] && ! grep -vE -- ' -O1 -MMD -MP -c -o ' "$work/compile" &&
        ! grep -v -- '-DUSER_CPP' "$work/compile"
}

link_flags() {
    grep -E ' -pie ' "$work/lines" >"$work/link"
    [ -s "$work/link" ] && ! grep -vE -- ' -Wl,-z,now .* -Wl,-O1 -o .* -lrt$' "$work/link"
}

missing_are_named() { # without a compiler and a sudo: one sentence, with the command to type
    mkdir -p "$work/bin"
    for program in sh id env cat; do
        ln -sf "$(command -v "$program")" "$work/bin/$program"
    done
    if PATH="$work/bin" tools/deps --check build test >"$work/out" 2>&1; then
        return 1
    fi
    [ "$(wc -l <"$work/out")" -eq 1 ] && grep -q 'apt-get install.* libyaml-dev.* python3' "$work/out"
}

commit_message() { # WANTED_STATUS TEXT
    printf '%b' "$2" >"$work/message"
    GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org .githooks/commit-msg "$work/message"
    [ $? -eq "$1" ]
}

local_hooks_only() {
    grep -q 'repo: local' .pre-commit-config.yaml && ! grep 'repo:' .pre-commit-config.yaml | grep -v local
}

no_submake() {
    # shellcheck disable=SC2016 # make's variable
    ! grep -nE '\$\(MAKE\) +-C' Makefile tools/*.mk
}

every_target_is_helped() { # each target that a person may type has a line in `make help`
    make -s help >"$work/help"
    for target in all demo check bench lint check-asan check-tsan check-deps check-docs coverage fuzz-smoke \
        install uninstall dist tidy analyze hardening-check repro hooks format clean; do
        grep -q "make $target " "$work/help" || { echo "no help for $target"; return 1; }
    done
}

ok 'CPPFLAGS and CFLAGS of the user come last' flags_last
ok 'LDFLAGS and LDLIBS of the user come last' link_flags
ok 'missing packages are named in one sentence' missing_are_named
ok 'a signed-off message passes' commit_message 0 'area: do it\n\nProblem: x\n\nSigned-off-by: A <a@example.org>\n'
ok 'a message without sign-off is refused' commit_message 1 'area: do it\n'
ok 'a foreign sign-off is refused' commit_message 1 'area: do it\n\nSigned-off-by: B <b@example.org>\n'
ok 'a message without an area is refused' commit_message 1 'Did it\n\nSigned-off-by: A <a@example.org>\n'
ok 'pre-commit hooks are local' local_hooks_only
ok 'make does not call itself in folders' no_submake
ok 'make help lists every target' every_target_is_helped

echo "1..$count"
exit "$failed"
