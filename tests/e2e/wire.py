#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""wire - what ranks send is what the plan says, collective by collective, and what the formulas say.

With P parameters (padded), G passes and N ranks, in units of P x 4 bytes x (N - 1) / N: 2 at stage 0,
2 at stage 1, G + 1 at stage 2; at stage 3 at most 3 G, G + 1 where parameters are held once; of those 2, 1, G and G are gradients, half as much
with precision.grad_wire bf16.  Counted by the comm layer, told by log.comm.
"""
import json

import harness as h

PASSES = 3


def planned(ranks, path, *more):
    ran = h.dsrun("plan", "--json", "--slots", ranks, path, *more)
    h.ok(ran.returncode == 0, "plan --json", ran.stderr)
    return json.loads(ran.stdout)


def told(run):
    lines = (run / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e.get("event") == "comm"]


def formula(stage, unit):
    return (2 if stage < 2 else PASSES + 1) * unit


def gradients(stage):
    """Of formula(), what grad_wire is about."""
    return {0: 2, 1: 1}.get(stage, PASSES)


def run_case(stage, ranks, compute="fp32", wire="fp32", once=True):
    name = f"stage {stage}, {ranks} ranks, {compute}, wire {wire}" + ("" if once else ", copies")
    path = h.write_job("job.yaml", layers=5, hidden=256, heads=4, ffn=1024, batch=PASSES * ranks, micro=1, steps=2)
    run = h.work() / name.replace(", ", "-").replace(" ", "-")
    more = (f"zero.stage={stage}", "zero.bucket_mb=1", f"precision.compute={compute}",
            f"precision.grad_wire={wire}", f"zero.once_per_host={str(once).lower()}", "log.comm=true")
    plan = planned(ranks, path, *more)
    ran = h.dsrun("--slots", ranks, "--run-dir", run, path, *more)
    if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
        return
    events = told(run)
    h.ok(len(events) == 2 and all(e["steps"] == 1 for e in events), f"{name}: told with every step", events)
    for event in events:
        sent = {op: (event[op]["calls"], event[op]["bytes"]) for op in plan["traffic"] if op in event}
        want = {op: (t["calls"], t["bytes"]) for op, t in plan["traffic"].items()}
        h.ok(sent == want, f"{name}: every collective as planned", f"{sent}, planned {want}")
        h.ok(all(key in ("event", "step", "steps", "text", "time") or key in want for key in event),
             f"{name}: no other collective", event)
    unit = sum(b["padded"] for b in plan["buckets"]) // ranks * (ranks - 1) * 4
    total = sum(event[op]["bytes"] for op in event if op in plan["traffic"] and op != "all_reduce_f64")
    h.ok(total == plan["wire_bytes_per_step"], f"{name}: the sum is the plan's", total)
    if compute == "bf16":
        return
    if wire == "bf16":
        sent = sum(event[op]["bytes"] for op in event if op.endswith("_bf16"))
        h.ok(2 * sent == gradients(stage) * unit, f"{name}: gradients are half the formula's bytes", f"{sent}, {unit}")
        h.ok(not any(event.get(op, {"bytes": 0})["bytes"] for op in ("all_reduce_f32", "reduce_scatter")),
             f"{name}: no gradient in fp32", event)
        return
    if stage < 3 or once:
        h.ok(total == formula(stage, unit), f"{name}: the formula's bytes", f"{total}, {formula(stage, unit)}")
    else:
        h.ok((PASSES + 1) * unit < total <= 3 * PASSES * unit, f"{name}: within the formula's bytes", total)
    h.ok("all_reduce_f64" in ran.stdout + ran.stderr, f"{name}: the console tells", ran.stdout)


for zero in (0, 1, 2, 3):
    run_case(zero, 2)
    run_case(zero, 3)
    run_case(zero, 3 if zero == 1 else 2, wire="bf16")
for world in (2, 3):
    run_case(3, world, once=False)
run_case(3, 2, compute="bf16", once=False)
h.done()
