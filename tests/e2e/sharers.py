#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""sharers - ranks that share sequences (parallel.sequence), as a user has them.

For both families the losses are those of ranks with whole sequences, checkpoints go from one to the other,
all ZeRO stages give the same bits, memory and messages are those of the plan: 4 all_to_all a layer and pass,
of P = tokens x (qkv + width) x 4 bytes x 2 x (S - 1) / S.  A trace of operations and an evaluation go with it.
What cannot be shared is refused with the key that would do.
"""
import json
import shutil

import harness as h

STEPS, LAYERS, HIDDEN, CONTEXT, BATCH = 4, 3, 64, 64, 4
LIMIT = 1e-5  # relative, of losses: sums are taken in another order


def job(family, **more):
    path = h.write_job(f"{family}.yaml", arch=family, layers=LAYERS, hidden=HIDDEN, heads=8, ffn=128, context=CONTEXT,
                       sequence=CONTEXT, steps=STEPS, batch=BATCH, micro=2, every=2, seed=5, **more)
    if family == "llama":
        path.write_text(path.read_text().replace("heads: 8,", "heads: 8, kv_heads: 4,"))
    return path


def train(path, run, ranks, *more, steps=STEPS):
    ran = h.dsrun("--slots", ranks, "--run-dir", run, path, f"train.steps={steps}", *more)
    return h.ok(ran.returncode == 0, f"{run.name}: trains to step {steps}", ran.stdout + ran.stderr)


def losses(run):
    return [(row["loss"], row["grad_norm"]) for row in h.metrics(run)]


def alike(name, run, whole):
    ours, theirs = losses(run), losses(whole)
    off = max(abs(x / y - 1) for a, b in zip(ours, theirs) for x, y in zip(a, b)) if len(ours) == len(theirs) else 1.0
    h.ok(off <= LIMIT, f"{name}: losses and norms within {LIMIT:g}", f"{off:g}")


def planned(path, ranks, *more):
    ran = h.dsrun("plan", "--json", "--slots", ranks, path, *more)
    h.ok(ran.returncode == 0, "plan --json", ran.stderr)
    return json.loads(ran.stdout)


def trains_alike(family):
    path, folder = job(family), h.work()
    kv = 4 if family == "llama" else 8
    whole = folder / f"{family}-1"
    train(path, whole, 2, "train.micro_batch=1", "log.comm=true")
    for sharers, ranks in ((2, 2), (2, 4), (4, 4)):
        run = folder / f"{family}-{sharers}-{ranks}"
        keys = (f"parallel.sequence={sharers}", "log.comm=true", "train.micro_batch=1")
        name = f"{family}, {ranks} ranks, {sharers} share"
        if not train(path, run, ranks, *keys):
            continue
        alike(name, run, whole)
        plan, passes = planned(path, ranks, *keys), BATCH // (ranks // sharers)
        swaps = plan["traffic"]["all_to_all"]
        row = HIDDEN * 2 + 2 * kv * HIDDEN // 8  # of queries, keys and values, and of what attention makes of them
        want = 2 * passes * LAYERS * CONTEXT // sharers * row * 4 * (sharers - 1) // sharers
        h.ok((swaps["calls"], swaps["bytes"]) == (4 * LAYERS * passes, want), f"{name}: swaps by the formula", swaps)
        events = [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e["event"] == "comm"]
        h.ok(events and all((e["all_to_all"]["calls"], e["all_to_all"]["bytes"]) == (swaps["calls"], want)
                            for e in events), f"{name}: every swap as planned", events[:1])
        h.ok(plan["sequence"] == CONTEXT and plan["sequence_ranks"] == sharers, f"{name}: so says the plan", plan["sequence"])


def goes_on_anywhere(family):
    """A checkpoint knows nothing of who shared what."""
    path, folder = job(family), h.work()
    layouts = {"whole": (2, ()), "shared": (2, ("parallel.sequence=2",)),
               "shared, stage 3": (4, ("parallel.sequence=2", "zero.stage=3"))}
    for first, (ranks, keys) in layouts.items():
        half = folder / "half"
        train(path, half, ranks, *keys, steps=2)
        for then, (others, more) in layouts.items():
            run = folder / "on"
            shutil.copytree(half, run, symlinks=True)
            name = f"{family}, saved {first}, goes on {then}"
            if train(path, run, others, *more):
                alike(name, run, folder / f"{family}-1")
            shutil.rmtree(run)
        shutil.rmtree(half)


def same_bits(family):
    path, folder = job(family), h.work()
    runs = [folder / f"{family}-stage-{stage}" for stage in range(4)]
    for stage, run in enumerate(runs):
        train(path, run, 4, "parallel.sequence=2", "train.micro_batch=2", f"zero.stage={stage}")
    for stage, run in enumerate(runs[1:], 1):
        diff = h.dsrun("ckpt", "diff", runs[0], run)
        h.ok(losses(run) == losses(runs[0]) and diff.returncode == 0, f"{family}, shared: stage {stage} has the bits of 0",
             diff.stdout[:300])


def is_shown():
    path, run = job("gpt2"), h.work() / "traced"
    text = h.dsrun("plan", "--slots", 2, path, "parallel.sequence=2").stdout
    h.ok(", 2 share a sequence," in text and "activations on their way" in text, "plan says who shares and what it takes",
         text)
    train(path, run, 2, "parallel.sequence=2", "log.trace=kernels")
    table = (run / "trace" / "kernels-00000.txt").read_text()
    h.ok(f"\n  all_to_all  " in table, "swaps are rows of the table of operations", table)


def is_refused():
    path = job("gpt2")
    for ranks, key, code, words in (
            (4, "parallel.sequence=3", 65, "'parallel.sequence' 3 must divide 'train.sequence' 64; 2 or 4 would do"),
            (4, "parallel.sequence=16", 65, "'parallel.sequence' 16 must divide 'model.heads' 8; 8 would do"),
            (3, "parallel.sequence=2", 65, "'parallel.sequence' 2 must divide the number of ranks, 3; 1 or 3 would do")):
        for command in ("check", "plan", "run"):
            ran = h.dsrun(command, "--slots", ranks, path, key)
            h.ok(ran.returncode == code and words in ran.stderr, f"{command}: {key} on {ranks} ranks is refused", ran.stderr)


for one in ("gpt2", "llama"):
    trains_alike(one)
    goes_on_anywhere(one)
    if not h.SANITIZED:
        same_bits(one)
is_shown()
is_refused()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
