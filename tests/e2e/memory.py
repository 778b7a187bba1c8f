#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""memory - what `dsrun plan` says a rank needs is what a rank takes.

Three sizes of model: the peak resident size of each worker (VmHWM) is within 10% of the plan's total; a
plan larger than the machine is refused, with its table, before anything starts.
"""
import json
import pathlib
import re
import time

import harness as h

TOLERANCE = 0.10
RANKS = 2

# layers, hidden, heads, context, micro batch
SIZES = [(4, 256, 4, 128, 8), (6, 384, 6, 256, 4), (3, 640, 10, 256, 2)]


def job(layers, hidden, heads, context, micro, every=0):
    return h.write_job(f"job-{hidden}-{every}.yaml", layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden,
                       context=context, sequence=context, micro=micro, batch=RANKS * micro, steps=2, every=every)


def planned_bytes(path):
    ran = h.dsrun("plan", "--json", "--slots", RANKS, path)
    if not h.ok(ran.returncode == 0, "plan --json", ran.stderr):
        return None
    return json.loads(ran.stdout)["memory"]["total"]


def peaks(process):
    """Largest VmHWM in bytes seen for each worker until the job ends."""
    seen = {}
    while process.poll() is None:
        for pid, line in h.processes().items():
            if "dsrun-worker" not in line:
                continue
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
            if peak:
                seen[pid] = max(seen.get(pid, 0), int(peak.group(1)) * 1024)
        time.sleep(0.01)
    return seen


def compare(size, every=0):
    """`every` 1: with a checkpoint that is written behind the second step."""
    name = "hidden %d, %d layers, a checkpoint every %d" % (size[1], size[0], every)
    path = job(*size, every=every)
    planned = planned_bytes(path)
    if planned is None:
        return
    measure(name, planned, "--run-dir", h.work() / f"run-{size[1]}-{every}", path)
    if every:  # loading takes no memory of its own: read straight to where the numbers belong
        measure(name + ", resumed", planned, "--run-dir", h.work() / f"run-{size[1]}-{every}", path, "train.steps=3")


def measure(name, planned, *args):
    process = h.start("--slots", RANKS, *args)
    seen = peaks(process)
    h.ok(process.returncode == 0, f"{name}: the job ends with 0", (h.work() / "start.log").read_text()[-2000:])
    if not h.ok(len(seen) == RANKS, f"{name}: every worker was seen", seen):
        return
    for peak in seen.values():
        h.ok(abs(peak - planned) <= TOLERANCE * planned, f"{name}: peak within {TOLERANCE:.0%} of the plan",
             f"planned {planned}, seen {peak}: {peak / planned - 1:+.1%}")


if h.SANITIZED:
    h.skip("memory of the workers", "a sanitizer's shadow is not in the plan")
else:
    for one in SIZES:
        compare(one)
    compare(SIZES[1], every=1)

huge = job(1000, 32768, 64, 512, 8, every=0)
refused = h.dsrun("--slots", RANKS, "--run-dir", h.work() / "huge", huge)
text = refused.stdout + refused.stderr
h.ok(0 < refused.returncode < 128, "a plan that does not fit is refused", text)
h.ok("error:" in text and "memory" in text, "the refusal says why", text)
h.ok("activations" in text, "with the table", text)
h.ok(not (h.work() / "huge" / "logs").exists() or not list((h.work() / "huge" / "logs").iterdir()),
     "before anything was started")
h.done()
