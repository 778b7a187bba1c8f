#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""pipeline - ranks that have parts of the layers (parallel.pipeline), as a user has them.

For both families losses and norms are those of ranks with all layers; checkpoints go from one number of parts
to another; ZeRO stages give the same bits; what each rank takes and sends is what the plan says: a PASS of
tokens x width x 4 bytes for each micro-batch and way.  A trace of operations and an evaluation go with it.  What
cannot be is refused with the key that would do.
"""
import os
import pathlib
import re

import harness as h
import shared
from shared import CONTEXT, HIDDEN, alike, planned, train

LAYERS, BATCH = 4, 8


def job(family):
    return shared.job(family, layers=LAYERS, batch=BATCH, micro=1)


def trains_alike(family):
    path, folder = job(family), h.work()
    whole = folder / f"{family}-1"
    train(path, whole, 1)
    for parts, ranks in ((2, 2), (4, 4), (2, 4)):
        run = folder / f"{family}-{parts}-{ranks}"
        keys = (f"parallel.pipeline={parts}", "log.comm=true")
        name = f"{family}, {ranks} ranks, {parts} parts"
        if not train(path, run, ranks, *keys):
            continue
        alike(name, run, whole)
        plan, passes = planned(path, ranks, *keys), BATCH * parts // ranks
        sent = plan["traffic"]["pass"]
        ahead = parts - 1  # micro-batches that rank 0 is ahead; the others go with the gradient of another
        want = (passes + ahead, passes * CONTEXT * HIDDEN * 4)
        h.ok((sent["calls"], sent["bytes"]) == want, f"{name}: passes by the formula", (sent, want))
        events = shared.comm_events(run)
        h.ok(events and all((e["pass"]["calls"], e["pass"]["bytes"]) == want for e in events),
             f"{name}: each as planned", events[:1])
        blocks = [(part["first_block"], part["blocks"]) for part in plan["parts"]]
        h.ok(len(blocks) == parts and blocks[0][0] == 0 and sum(count for _, count in blocks) == LAYERS + 2,
             f"{name}: every block is in a part", blocks)


def goes_on_anywhere(family):
    shared.goes_on_anywhere(family, job(family), {"whole": (1, ()), "in 2 parts": (4, ("parallel.pipeline=2", "zero.stage=2")),
                                   "in 3 parts": (3, ("parallel.pipeline=3",))})


def same_bits(family):
    path, folder = job(family), h.work()
    runs = [folder / f"{family}-stage-{stage}" for stage in range(3)]
    for stage, run in enumerate(runs):
        train(path, run, 4, "parallel.pipeline=2", "train.micro_batch=4", f"zero.stage={stage}")
    shared.same_bits(f"{family}, 2 parts", runs)


def is_shown():
    path, run = job("gpt2"), h.work() / "traced"
    text = h.dsrun("plan", "--schedule", "--slots", 2, path, "parallel.pipeline=2").stdout
    h.ok(", a pipeline of 2," in text and "\npart 2    blocks 3 to 5, activations of 1 pass," in text and " SEND " in text,
         "plan says what each part has", text[:2000])
    text = h.dsrun("plan", "--rank", 1, "--schedule", "--slots", 2, path, "parallel.pipeline=2").stdout
    h.ok("\n     0           3-5 " in text and " TIE " in text, "plan --rank shows another part's", text[:2000])
    ran = h.dsrun("plan", "--rank", 2, "--slots", 2, path)
    h.ok(ran.returncode == 65 and "'--rank' 2: there are 2 ranks, from 0 on" in ran.stderr, "plan --rank of nobody", ran.stderr)
    train(path, run, 2, "parallel.pipeline=2", "log.trace=kernels")
    table = (run / "trace" / "kernels-00000.txt").read_text()
    h.ok("\n  pass  " in table, "passes are rows of the table of operations", table)


def takes_what_is_planned():
    """The largest resident size of each worker, against that of its part."""
    path = h.write_job("size.yaml", layers=6, hidden=256, heads=4, ffn=1024, context=128, sequence=128, steps=3,
                       batch=32, micro=4)
    keys = ("parallel.pipeline=3",)
    plan = planned(path, 3, *keys)
    process = h.start("--slots", 3, "--run-dir", h.work() / "size", path, *keys)
    seen = {}
    while process.poll() is None:
        for pid in [pid for pid, line in h.processes().items() if "dsrun-worker" in line]:
            try:
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
                rank = re.search(rb"\0RANK=(\d+)", b"\0" + pathlib.Path(f"/proc/{pid}/environ").read_bytes())
            except OSError:
                continue
            peak = re.search(r"^VmHWM:\s+(\d+) kB", text, re.M)
            if peak and rank:
                seen[int(rank.group(1))] = int(peak.group(1)) * 1024
    h.ok(process.returncode == 0 and sorted(seen) == [0, 1, 2], "every part was seen", seen)
    for rank, peak in sorted(seen.items()):
        want = plan["parts"][rank]["total"]
        h.ok(abs(peak / want - 1) <= 0.05, f"part {rank + 1}: peak within 5% of the plan", f"{want} planned, {peak} seen")
        if os.environ.get("DSRUN_MEMORY"):
            print(f"# part {rank + 1}: planned {want}, seen {peak}: {peak / want - 1:+.1%}", flush=True)


def is_refused():
    shared.is_refused(job("gpt2"), (
        (5, "parallel.pipeline=5", "'parallel.pipeline' 5 is more than 'model.layers' 4"),
        (3, "parallel.pipeline=2", "'parallel.pipeline' 2 must divide the number of ranks, 3; 1 or 3 would do"),
        (2, "zero.stage=3 parallel.pipeline=2", "'parallel.pipeline' 2 and 'zero.stage' 3 do not go together")))


for one in ("gpt2", "llama"):
    trains_alike(one)
if not h.SANITIZED:
    goes_on_anywhere("gpt2")  # of a tied embedding, which two parts hold
    same_bits("llama")
is_shown()
if not h.SANITIZED:
    takes_what_is_planned()
is_refused()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
