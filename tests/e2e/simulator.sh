#!/usr/bin/env bash
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# simulator - thousands of seeded sequences of failures hold every invariant; each planted bug is found.
#
# The full count is `make check-sim`.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 70
sim=${B:-build}/tests/sim
out=$(mktemp -d "${TMPDIR:-/tmp}/dsrun-sim.XXXXXX") || exit 70
trap 'rm -rf "$out"' EXIT
count=6000 mutant_counts="500 6000" points=0 failed=0
[ -z "${ASAN_OPTIONS:-}" ] || count=600

point() { # GOOD NAME
    points=$((points + 1))
    if [ "$1" = 0 ]; then
        echo "ok $points - $2"
    else
        failed=1
        echo "not ok $points - $2"
        head -n 12 "$out/log" | sed 's/^/#   /'
    fi
}

"$sim/sim" "$count" >"$out/log" 2>&1
point $? "$(tail -n 1 "$out/log")"
for seed in tests/seeded/sim/*.sed; do
    name=$(basename "$seed" .sed)
    for many in $mutant_counts; do # most are found at once
        "$sim/mutant/$name" "$many" >"$out/log" 2>&1
        found=$?
        [ "$found" -eq 0 ] || break
    done
    [ "$found" -eq 1 ]
    point $? "planted bug $name is found: $(sed -n 's/^# \(.*\)\.$/\1/p' "$seed" | tail -n 1)"
done
echo "1..$points"
exit "$failed"
