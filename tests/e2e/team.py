#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""team - ranks that share each layer (parallel.tensor), as a user has them.

For both families losses and norms are those of ranks with whole layers, also where several have the same head of keys and values; checkpoints go from any team to any other,
are verified, exported and compared as ever; ZeRO stages give the same bits; what ranks tell each other is what the
plan says: of tokens x width x 4 bytes four sums a layer and two at the ends, for each micro-batch.  Weights of
Hugging Face, a trace of operations and an evaluation go with it.  What cannot be is refused with the key that
would do.
"""
import harness as h
import shared
from shared import CONTEXT, HIDDEN, alike, planned, train

LAYERS, BATCH = 3, 8


def job(family):
    return shared.job(family, layers=LAYERS, batch=BATCH, micro=1)


def trains_alike(family):
    path, folder = job(family), h.work()
    whole = folder / f"{family}-1"
    train(path, whole, 1)
    for team, ranks, more in ((2, 2, ()), (4, 4, ()), (2, 4, ()), (2, 4, ("parallel.sequence=2",)),
                              (2, 4, ("parallel.pipeline=2",))):
        run = folder / "-".join((family, str(team), str(ranks), *(key.split("=")[0] for key in more)))
        keys = (f"parallel.tensor={team}", "log.comm=true", *more)
        name = f"{family}, {ranks} ranks, teams of {team}{''.join(', ' + key for key in more)}"
        if not train(path, run, ranks, *keys):
            continue
        alike(name, run, whole)
        if more:
            continue
        plan, passes = planned(path, ranks, *keys), BATCH * team // ranks
        h.ok(plan["tensor_ranks"] == team, f"{name}: the plan says so", plan["tensor_ranks"])
        sums = passes * (4 * LAYERS + 2)
        want = sums * 2 * CONTEXT * HIDDEN * 4 * (team - 1) // team
        got = plan["traffic"]["all_reduce_f32"]
        gradients = got["calls"] - sums, got["bytes"] - want
        h.ok(gradients == (0, 0) if ranks == team else gradients[0] > 0 and gradients[1] > 0,
             f"{name}: sums by the formula", (got, sums, want))
        events = shared.comm_events(run)
        h.ok(events and all(e[op]["calls"] == said["calls"] and e[op]["bytes"] == said["bytes"]
                            for e in events for op, said in plan["traffic"].items()), f"{name}: each as planned",
             events[:1])


def goes_on_anywhere(family):
    shared.goes_on_anywhere(family, job(family), {
        "whole": (2, ("zero.stage=1",)), "in teams of 2": (4, ("parallel.tensor=2", "zero.stage=3")),
        "in a team of 4": (4, ("parallel.tensor=4",)),
        "in teams of 2, 2 parts": (4, ("parallel.tensor=2", "parallel.pipeline=2"))})


def as_one(family, path, layouts):
    """A run of one rank, and each layout: about the same losses, traffic as planned."""
    folder = h.work()
    train(path, folder / f"{family}-1", 1)
    for name, (ranks, keys) in layouts.items():
        run = folder / f"{family}-{name.replace(' ', '-')}"
        if not train(path, run, ranks, *keys, "log.comm=true"):
            continue
        alike(f"{family}, {name}", run, folder / f"{family}-1")
        plan, said = planned(path, ranks, *keys), shared.comm_events(run)
        h.ok(ranks == 1 or said and all(e[op]["calls"] == to["calls"] and e[op]["bytes"] == to["bytes"]
                                        for e in said for op, to in plan["traffic"].items()),
             f"{family}, {name}: traffic as planned", said[:1])


def with_few_kv_heads():
    """Two heads of keys and values on 4 and 8 ranks: losses, traffic and checkpoints from any of them to any."""
    family = "llama-2"
    path = job("llama")
    path = path.rename(path.with_name(f"{family}.yaml"))
    path.write_text(path.read_text().replace("kv_heads: 4", "kv_heads: 2"))
    layouts = {"whole": (1, ()), "in a team of 2": (2, ("parallel.tensor=2",)),
               "in teams of 4": (8, ("parallel.tensor=4", "zero.stage=2")), "in a team of 8": (8, ("parallel.tensor=8",)),
               "in teams of 4 that share": (8, ("parallel.tensor=4", "parallel.sequence=2", "zero.stage=3"))}
    as_one(family, path, layouts)
    text = h.dsrun("plan", "--slots", 8, path, "parallel.tensor=8").stdout
    h.ok(", 8 share each layer, 4 a key/value head," in text, f"{family}: plan says on how many ranks a head is", text)
    if not h.SANITIZED:
        shared.goes_on_anywhere(family, path, layouts)


def with_muon(family):
    """Matrices that are updated as a whole: losses, traffic, and checkpoints between teams."""
    name = f"{family}-muon"
    path = job(family)
    path = path.rename(path.with_name(f"{name}.yaml"))
    path.write_text(path.read_text().replace("optim: {", "optim: {name: muon, "))
    layouts = {"whole": (2, ("zero.stage=1",)), "in a team of 2": (2, ("parallel.tensor=2",)),
               "in teams of 4": (8, ("parallel.tensor=4", "zero.stage=2"))}
    as_one(name, path, layouts)
    if not h.SANITIZED:
        shared.goes_on_anywhere(name, path, layouts)


def is_one_checkpoint(family):
    """The tensors that a team saves are those of the model: exported they train on anywhere."""
    path, folder = job(family), h.work()
    run, out = folder / f"{family}-saved", folder / f"{family}-hf"
    train(path, run, 4, "parallel.tensor=2", "zero.stage=2", "checkpoint.every=2", "checkpoint.async=true")
    ran = h.dsrun("ckpt", "ls", run)
    h.ok(all(row.split()[5:11] == ["2", "2", "2", "1", "1", "1"] for row in ran.stdout.splitlines()[1:]) and ran.stdout.count("whole") == 2,
         f"{family}: ckpt ls shows the team", ran.stdout)
    ran = h.dsrun("ckpt", "verify", run)
    h.ok(ran.returncode == 0, f"{family}: the checkpoint is whole", ran.stderr)
    ran = h.dsrun("ckpt", "export", run, out)
    h.ok(ran.returncode == 0, f"{family}: and can be exported", ran.stderr)
    tuned = [folder / f"{family}-tuned-{team}" for team in (1, 2)]
    for team, into in zip((1, 2), tuned):
        train(path, into, 2, f"model.init.from={out}", f"parallel.tensor={team}", "train.micro_batch=2")
    alike(f"{family}: from exported weights", *reversed(tuned))


def same_bits(family):
    path, folder = job(family), h.work()
    runs = [folder / f"{family}-stage-{stage}" for stage in range(4)]
    for stage, run in enumerate(runs):
        train(path, run, 4, "parallel.tensor=2", "train.micro_batch=4", f"zero.stage={stage}")
    shared.same_bits(f"{family}, teams of 2", runs)


def is_shown():
    path = job("gpt2")
    text = h.dsrun("plan", "--slots", 2, path, "parallel.tensor=2").stdout
    h.ok("2 share each layer" in text, "plan says who shares", text)
    run = h.work() / "traced"
    train(path, run, 2, "parallel.tensor=2", "log.trace=kernels")
    table = (run / "trace" / "kernels-00000.txt").read_text()
    h.ok("\n  all_reduce  " in table and "\n  all_gather  " in table, "sums are rows of the table of operations", table)


def is_refused():
    shared.is_refused(job("llama"), (
        (3, "parallel.tensor=3", "'parallel.tensor' 3 must divide 'model.heads' 8; 2 or 4 would do"),
        (4, "parallel.tensor=4 model.heads=12 model.hidden=96 model.kv_heads=6",
         "'parallel.tensor' 4 must divide 'model.kv_heads' 6, or be a multiple of it; 3 or 6 would do"),
        (3, "parallel.tensor=2", "'parallel.tensor' 2 must divide the number of ranks, 3; 1 or 3 would do"),
        (6, "parallel.tensor=2 parallel.sequence=3 model.heads=12 model.hidden=96 train.sequence=48",
         "'parallel.sequence' 3 must divide 'model.kv_heads' / 'parallel.tensor', 2, or be a multiple of it; 2 or 6 would do")))


def is_refused_on_hosts():
    """In bf16 the likes of each rank must lie on hosts as those of the others: else what all of a team hold drifts apart."""
    path, hosts = job("llama"), h.work() / "team-hosts"
    for team, slots, kind, refused in ((2, (1, 7), "bf16", "node2"), (2, (3, 3), "bf16", "node2"), (4, (4, 2, 2, 4, 4), "bf16", ""),
                                       (4, (2, 4, 2), "bf16", "node2"), (2, (1, 7), "fp32", ""), (2, (4, 4), "bf16", ""),
                                       (4, (2, 2, 2, 2), "bf16", ""), (1, (1, 3), "bf16", ""), (4, (4, 1, 3), "bf16", "")):
        hosts.write_text("".join(f"node{i + 1} slots={n}\n" for i, n in enumerate(slots)))
        ran = h.dsrun("check", "-H", hosts, path, f"parallel.tensor={team}", f"precision.grad_wire={kind}", "launch.device=cpu",
                      f"train.global_batch={sum(slots) * 4}")
        said = f"a multiple of {team} ranks on every host would do, or fp32"
        h.ok((ran.returncode, ran.stderr) == (0, "") if not refused else
             ran.returncode == 65 and said in ran.stderr and f"as one on '{refused}' does" in ran.stderr,
             f"teams of {team} on hosts of {slots} ranks, {kind}: {'refused' if refused else 'taken'}", ran.stderr)


for one in ("gpt2", "llama"):
    trains_alike(one)
if not h.SANITIZED:
    goes_on_anywhere("gpt2")  # of a packed matrix, of which each rank has three runs of columns
    is_one_checkpoint("llama")
    same_bits("llama")
with_few_kv_heads()
with_muon("gpt2")  # of a packed matrix
with_muon("llama")
is_shown()
is_refused()
is_refused_on_hosts()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
