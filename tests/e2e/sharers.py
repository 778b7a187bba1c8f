#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""sharers - ranks that share sequences (parallel.sequence), as a user has them.

For both families the losses are those of ranks with whole sequences, checkpoints go from one to the other,
all ZeRO stages give the same bits, memory and messages are those of the plan: 4 all_to_all a layer and pass,
of P = tokens x (qkv + width) x 4 bytes x 2 x (S - 1) / S.  A trace of operations and an evaluation go with it.
What cannot be shared is refused with the key that would do.
"""

import harness as h
import shared
from shared import CONTEXT, HIDDEN, alike, planned, train

LAYERS, BATCH = 3, 4


def job(family):
    return shared.job(family, layers=LAYERS, batch=BATCH, micro=2)


def trains_alike(family):
    path, folder = job(family), h.work()
    kv = 4 if family == "llama" else 8
    whole = folder / f"{family}-1"
    train(path, whole, 2, "train.micro_batch=1", "log.comm=true")
    for sharers, ranks in ((2, 2), (2, 4), (4, 4), (8, 8)):
        run = folder / f"{family}-{sharers}-{ranks}"
        keys = (f"parallel.sequence={sharers}", "log.comm=true", "train.micro_batch=1")
        name = f"{family}, {ranks} ranks, {sharers} share"
        if not train(path, run, ranks, *keys):
            continue
        alike(name, run, whole)
        plan, passes = planned(path, ranks, *keys), BATCH // (ranks // sharers)
        swaps = plan["traffic"]["all_to_all"]
        row = HIDDEN * 2 + 2 * max(kv, sharers) * HIDDEN // 8  # of queries, keys and values, and of what attention makes of them
        want = 2 * passes * LAYERS * CONTEXT // sharers * row * 4 * (sharers - 1) // sharers
        h.ok((swaps["calls"], swaps["bytes"]) == (4 * LAYERS * passes, want), f"{name}: swaps by the formula", swaps)
        events = shared.comm_events(run)
        h.ok(events and all((e["all_to_all"]["calls"], e["all_to_all"]["bytes"]) == (swaps["calls"], want)
                            for e in events), f"{name}: every swap as planned", events[:1])
        h.ok(plan["sequence"] == CONTEXT and plan["sequence_ranks"] == sharers, f"{name}: so says the plan", plan["sequence"])


def goes_on_anywhere(family):
    shared.goes_on_anywhere(family, job(family), {"whole": (2, ()), "shared": (2, ("parallel.sequence=2",)),
                                   "shared, stage 3": (4, ("parallel.sequence=2", "zero.stage=3"))})


def same_bits(family):
    path, folder = job(family), h.work()
    runs = [folder / f"{family}-stage-{stage}" for stage in range(4)]
    for stage, run in enumerate(runs):
        train(path, run, 4, "parallel.sequence=2", "train.micro_batch=2", f"zero.stage={stage}")
    shared.same_bits(f"{family}, shared", runs)


def is_shown():
    path, run = job("gpt2"), h.work() / "traced"
    text = h.dsrun("plan", "--slots", 2, path, "parallel.sequence=2").stdout
    h.ok(", 2 share a sequence," in text and "activations on their way" in text, "plan says who shares and what it takes",
         text)
    train(path, run, 2, "parallel.sequence=2", "log.trace=kernels")
    table = (run / "trace" / "kernels-00000.txt").read_text()
    h.ok(f"\n  all_to_all  " in table, "swaps are rows of the table of operations", table)


def is_refused():
    shared.is_refused(job("gpt2"), (
        (4, "parallel.sequence=3", "'parallel.sequence' 3 must divide 'train.sequence' 64; 2 or 4 would do"),
        (4, "parallel.sequence=16", "'parallel.sequence' 16 must divide 'model.heads' 8; 8 would do"),
        (3, "parallel.sequence=2", "'parallel.sequence' 2 must divide the number of ranks, 3; 1 or 3 would do")))


for one in ("gpt2", "llama"):
    trains_alike(one)
    if not h.SANITIZED:
        same_bits(one)
    if one == "gpt2" or not h.SANITIZED:
        goes_on_anywhere(one)
is_shown()
is_refused()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
