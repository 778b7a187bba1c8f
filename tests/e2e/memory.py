#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""memory - what `dsrun plan` says a rank needs is what a rank takes, at every ZeRO stage.

The peak resident size of each worker (VmHWM) is within 5% of the plan's total: three sizes of model at
every stage on two ranks, one of them on 1 to 4 ranks; and what changes the states, on a model that has little
beside them.  With DSRUN_MEMORY=full the sizes go to 350 million
parameters, on 1 to 4 ranks where the machine holds them (`make check-memory`).  A run that goes on from a
checkpoint of another layout takes at most its largest tensor more.

A plan larger than the machine is refused, with its table, before anything starts.  In a cgroup that holds
no rank's share of the states at stages 0 to 2 with a copy of the parameters on every rank, four ranks train
at stage 3; and so they do where the host holds them once, which takes less.
"""
import itertools
import json
import math
import os
import pathlib
import re
import subprocess
import time

import harness as h

TOLERANCE = 0.05
FULL = os.environ.get("DSRUN_MEMORY") == "full"

# layers, hidden, heads, context, micro batch
SIZES = [(4, 256, 4, 128, 8), (6, 384, 6, 256, 2), (3, 640, 10, 256, 1)]
STATES = (6, 384, 6, 128, 1)  # few activations: what is missing of the states is a larger part, and costs less to see
BF16 = (6, 512, 8, 256, 1)  # a processor that does not multiply it takes 10 MiB less than planned: not 5% of this
LARGE = [(12, 512, 8, 256, 2), (12, 768, 12, 256, 2), (28, 1024, 16, 256, 1)]  # 38, 85, 353 million


def job(size, ranks, **more):
    layers, hidden, heads, context, micro = size
    return h.write_job(f"job-{hidden}.yaml", layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden,
                       context=context, sequence=context, micro=micro, batch=ranks * micro, steps=2, **more)


def plan_of(ranks, path, *more):
    """(exit code, the plan) of dsrun plan --json; it prints what does not fit, too."""
    ran = h.dsrun("plan", "--json", "--slots", ranks, path, *more)
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else ran.stderr


def peaks(process, ranks):
    """Largest VmHWM in bytes seen for each worker until the job ends.

    To look through all processes takes longer than the workers' own files, and time that the workers want:
    it is done until all are found, and now and then for one too many.
    """
    seen, workers = {}, []
    for turn in itertools.count():
        if process.poll() is not None:
            break
        if len(workers) < ranks or turn % 20 == 0:
            workers = [pid for pid, line in h.processes().items() if "dsrun-worker" in line]
        for pid in workers:
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
            if peak:
                seen[pid] = max(seen.get(pid, 0), int(peak.group(1)) * 1024)
        time.sleep(0.01)
    return seen


def compare(size, ranks, stage, compute="fp32", *keys):
    name = f"hidden {size[1]}, {size[0]} layers, {ranks} ranks, stage {stage}, {compute}" + ", ".join(("", *keys))
    path = job(size, ranks)
    more = (f"zero.stage={stage}", f"precision.compute={compute}", *keys)
    code, plan = plan_of(ranks, path, *more)
    if code != 0 and FULL:
        h.skip(name, "this machine does not hold it")
        return
    if not h.ok(code == 0, f"{name}: plan --json", plan):
        return
    planned = plan["memory"]["total"]
    process = h.start("--slots", ranks, "--run-dir", h.work() / f"run-{sum(h.counts())}", path, *more)
    seen = peaks(process, ranks)
    h.ok(process.returncode == 0, f"{name}: the job ends with 0", (h.work() / "start.log").read_text()[-2000:])
    if not h.ok(len(seen) == ranks, f"{name}: every worker was seen", seen):
        return
    for peak in seen.values():
        h.ok(abs(peak - planned) <= TOLERANCE * planned, f"{name}: peak within {TOLERANCE:.0%} of the plan",
             f"planned {planned}, seen {peak}: {peak / planned - 1:+.1%}")
        if os.environ.get("DSRUN_MEMORY"):
            print(f"# {name}: planned {planned}, seen {peak}: {peak / planned - 1:+.1%}", flush=True)


def go_on(size, saved, loaded):
    """A checkpoint of the layout `saved` (stage, ranks), loaded at `loaded`: the peaks of the second run."""
    layers, hidden, heads, context, micro = size
    name = "saved at stage %d on %d ranks, loaded at stage %d on %d" % (*saved, *loaded)
    batch = 2 * micro * math.lcm(saved[1], loaded[1])  # passes are added up on every rank, before and after
    path = h.write_job(f"go-on-{hidden}.yaml", layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden,
                       context=context, sequence=context, micro=micro, batch=batch, steps=2, every=1)
    run = h.work() / ("go-on-%d-%d-%d-%d" % (*saved, *loaded))
    ran = h.dsrun("--slots", saved[1], "--run-dir", run, path, f"zero.stage={saved[0]}", "train.steps=1")
    if not h.ok(ran.returncode == 0, f"{name}: saved", ran.stdout + ran.stderr):
        return
    more = (f"zero.stage={loaded[0]}", "train.steps=2")
    _, plan = plan_of(loaded[1], path, *more)
    manifest = json.loads((run / "checkpoints" / "latest" / "manifest.json").read_text())
    largest = 4 * max(math.prod(tensor["shape"]) for tensor in manifest["tensors"])
    process = h.start("--slots", loaded[1], "--run-dir", run, path, *more)
    seen = peaks(process, loaded[1])
    h.ok(process.returncode == 0 and len(h.metrics(run)) == 2, f"{name}: goes on",
         (h.work() / "start.log").read_text()[-2000:])
    most = (1 + TOLERANCE) * plan["memory"]["total"] + largest
    h.ok(len(seen) == loaded[1] and max(seen.values()) <= most, f"{name}: one tensor more at most",
         f"planned {plan['memory']['total']}, seen {seen}, largest tensor {largest}")


# --- under a limit ------------------------------------------------------------------------------------

def own_group():
    """(folder of a new cgroup below this process', name of its limit), or None where there can be none."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root, limit = {"": ("/sys/fs/cgroup", "memory.max"),
                       "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")}.get(controllers, (None, None))
        if root is None:
            continue
        folder = pathlib.Path(root + path) / f"dsrun-memory.{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / limit).exists():
            return folder, limit
        folder.rmdir()
    return None


def dsrun_in(group, *args):
    enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
    return subprocess.run(["sh", "-c", enter, str(group), h.DSRUN, *map(str, args)], capture_output=True, text=True,
                          errors="replace", timeout=300, cwd=h.work(), env=h.environment(), check=False)


def under_a_limit(group, limit):
    size, ranks = (8, 512, 8, 64, 1), 4
    path, need, plans, copies = job(size, ranks), {}, {}, "zero.once_per_host=false"
    for stage in range(4):
        _, plans[stage] = plan_of(ranks, path, f"zero.stage={stage}", copies)
        memory = plans[stage]["memory"]
        need[stage] = memory["all ranks of a host"]
    most = (need[3] + min(need[s] for s in (0, 1, 2))) // 2
    states = 16 * plans[0]["parameters"]
    h.ok(states > most // ranks, "the states are more than one rank's share of the limit", f"{states}, {most}")
    (group / limit).write_text(str(most))
    for stage in (0, 1, 2):
        run = h.work() / f"limit-{stage}"
        ran = dsrun_in(group, "--slots", ranks, "--run-dir", run, path, f"zero.stage={stage}", copies)
        text = ran.stdout + ran.stderr
        h.ok(ran.returncode == 65 and "not enough memory" in text, f"stage {stage} is refused under the limit", text)
        h.ok(not (run / "logs").exists() or not list((run / "logs").iterdir()), f"stage {stage}: before it starts")
    for name, *keys in (("stage 3", copies), ("stage 3 with parameters held once",)):
        run = h.work() / f"limit-3-{len(keys)}-trains"
        ran = dsrun_in(group, "--slots", ranks, "--run-dir", run, path, "zero.stage=3", *keys)
        if h.ok(ran.returncode == 0, f"{name} trains under the limit", ran.stdout + ran.stderr):
            h.ok(len(h.metrics(run)) == 2, "every step of it")


def addresses():
    """A limit of addresses is one process', and every rank maps the arenas of all ranks of its host."""
    ranks = 4
    path = job((8, 512, 8, 64, 1), ranks)
    _, plan = plan_of(ranks, path, "zero.once_per_host=false")
    need = plan["memory"]["all ranks of a host"]
    for what, limit, code in (("less than", need * 3 // 4, 65), ("more than", need + (4 << 30), 0)):
        ran = subprocess.run(["sh", "-c", f'ulimit -v {limit >> 10} && exec "$@"', "sh", h.DSRUN, "plan", "--slots", str(ranks), path,
                              "zero.once_per_host=false"], capture_output=True, text=True, cwd=h.work(), check=False)
        h.ok(ran.returncode == code and ("the addresses of a process are limited (ulimit -v): not enough memory: 4 ranks need" in ran.stderr)
             == (code == 65), f"ulimit -v {what} all ranks of the host map: {code}", ran.stderr)
    run = h.work() / "addresses"
    ran = subprocess.run(["sh", "-c", f'ulimit -v {need * 3 >> 12} && exec "$@"', "sh", h.DSRUN, "--slots", str(ranks), "--run-dir", run, path,
                          "zero.once_per_host=false"], capture_output=True, text=True, cwd=h.work(), check=False)
    h.ok(ran.returncode == 65 and "ulimit -v" in ran.stderr and not list(run.glob("logs/*")), "and training is refused before it starts",
         ran.stdout + ran.stderr)


def check_limit():
    found = own_group()
    if found is None:
        h.skip("training under a limit", "no cgroup with a memory limit can be made here")
        return
    try:
        under_a_limit(*found)
    finally:
        h.left()
        found[0].rmdir()


if h.SANITIZED:
    h.skip("memory of the workers", "a sanitizer's shadow is not in the plan")
elif FULL:
    for one in LARGE:
        for world in (1, 2, 3, 4):
            for zero in (0, 1, 2, 3):
                compare(one, world, zero)
else:
    for one in SIZES:
        for zero in (0, 1, 2, 3):
            compare(one, 2, zero)
    for world, zero in ((1, 0), (3, 1), (3, 3), (4, 0), (4, 2)):  # below are 2 on 3 ranks and 3 on 4
        compare(SIZES[0], world, zero)
    compare(BF16, 2, 1, "bf16")
    compare(BF16, 2, 1, "bf16", "zero.once_per_host=false")
    compare(STATES, 3, 2, "fp32", "zero.once_per_host=false")
    compare(STATES, 3, 1, "fp32", "zero.replicate_below=100000")
    compare(BF16, 2, 3, "bf16", "zero.once_per_host=false")
    compare(STATES, 4, 3, "fp32", "zero.once_per_host=false")
    compare(STATES, 3, 1, "fp32", "optim.name=muon")
    compare(STATES, 2, 2, "bf16", "precision.grad_wire=bf16", "optim.name=muon")
    compare(STATES, 2, 0, "fp32", "offload.optim=cpu")
    compare(BF16, 2, 2, "bf16", "offload.optim=cpu")
    compare(STATES, 2, 2, "bf16", "offload.optim=cpu", "optim.name=muon")
    compare(BF16, 2, 3, "bf16", "offload.params=cpu")
    compare(SIZES[0], 2, 1, "fp32", "activation.recompute=full", "activation.offload=cpu")
    compare(STATES, 1, 3, "fp32", "offload.params=cpu", "offload.optim=cpu")
    compare(STATES, 2, 3, "fp32", "zero.once_per_host=false", "zero.prefetch=4")
    compare(SIZES[1], 2, 1, "fp32", "parallel.sequence=2")
    compare(SIZES[0], 4, 2, "fp32", "parallel.sequence=4")
    compare(SIZES[1], 2, 0, "fp32", "parallel.tensor=2")
    compare(SIZES[0], 4, 2, "fp32", "parallel.tensor=2")
    for sharers in ("parallel.tensor=4", "parallel.sequence=4"):
        compare(SIZES[0], 4, 2, "fp32", sharers, "model.arch=llama", "model.kv_heads=1")
    compare(SIZES[0], 4, 2, "fp32", "parallel.tensor=2", "optim.name=muon", "model.arch=llama", "model.kv_heads=1")
    compare(SIZES[0], 2, 1, "fp32", "model.arch=mixtral", "model.experts=4")
    # In each layer that keeps it divided experts have room for all rows that could come, which no router sends.
    compare(SIZES[0], 4, 1, "fp32", "model.arch=mixtral", "model.experts=4", "parallel.expert=2", "activation.recompute=full")
    compare(SIZES[0], 2, 3, "bf16", "model.arch=mixtral", "model.experts=4", "parallel.expert=2", "activation.recompute=full")
    compare(SIZES[0], 2, 2, "bf16", "model.arch=qwen3_moe", "model.head_size=128", "model.experts=4", "activation.recompute=full")
    for here, there in [((0, 2), (3, 2)), ((3, 3), (1, 2)), ((2, 2), (0, 1)), ((1, 2), (3, 4))]:
        go_on(STATES, here, there)
    check_limit()
    addresses()

huge = job((1000, 32768, 64, 512, 8), 2, every=0)
refused = h.dsrun("--slots", 2, "--run-dir", h.work() / "huge", huge)
text = refused.stdout + refused.stderr
h.ok(0 < refused.returncode < 128, "a plan that does not fit is refused", text)
h.ok("error:" in text and "memory" in text, "the refusal says why", text)
h.ok("activations" in text, "with the table", text)
h.ok(not (h.work() / "huge" / "logs").exists() or not list((h.work() / "huge" / "logs").iterdir()),
     "before anything was started")
h.done()
