#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""bits - training over ssh on real hosts gives the bits of as many ranks on one machine.

Four ranks as 4 x 1, 2 x 2 and 3 + 1 on the hosts; shares of ZeRO among all ranks and among those of a host; a rank
that is killed, a host that is lost to a spare, and a resume on half as many hosts; and last, two hosts of four
that cannot reach each other.  Loss and norm are compared as the texts that were written, weights and moments by
`dsrun ckpt diff`.  The hosts share the disk that the run directories are on.
"""
import json
import os
import re
import time

import beds
import harness as h

STEPS, LONG, HALF, EVERY = 6, 500, 400, 20
LIMIT = 60 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
NORM_TOLERANCE = 1e-6  # relative; dsrun-job(5): with shard groups its last bit may differ


def wait_for(true):
    end = time.monotonic() + LIMIT
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def hosts(*pairs):
    """A hostfile of (host, slots)."""
    path = h.work() / ("hosts-" + "-".join(f"{name}.{slots}" for name, slots in pairs))
    path.write_text("".join(f"{name} slots={slots}\n" for name, slots in pairs))
    return path


def command(run, hostfile, *keys, job=None):
    return (h.DSRUN, "-q", "-H", hostfile, "--via", "ssh", "--run-dir", run, job or JOB, *keys)


def events(run):
    try:
        return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []


def saved_step(run):
    try:
        return int(os.readlink(run / "checkpoints" / "latest").rpartition("-")[2])
    except OSError:
        return 0


def on_machine(name, job, *keys):
    """The run that the others are compared with: four ranks on this machine."""
    run = h.work() / name
    ran = h.dsrun("-q", "--slots", 4, "--run-dir", run, job, *keys)
    h.ok(ran.returncode == 0, f"{name}: trains", ran.stdout + ran.stderr)
    return run


def same_numbers(name, run, other, steps):
    mine, its = h.metric_texts(run), h.metric_texts(other)
    h.ok(len(its) == steps and mine == its, f"{name}: loss and norm of each step, to the byte",
         [pair for pair in zip(mine, its) if pair[0] != pair[1]][:3] or (len(mine), len(its)))


def same_weights(name, run, other):
    diff = h.dsrun("ckpt", "diff", run, other)
    h.ok(diff.returncode == 0, f"{name}: weights and moments, to the bit", diff.stdout + diff.stderr)


def on_hosts(bed, name, hostfile, *keys):
    run = h.work() / re.sub(r"\W+", "-", name)
    ran = bed.run(*command(run, hostfile, *keys))
    h.ok(ran.returncode == 0 and not ran.stderr, f"{name}: trains", ran.stdout + ran.stderr)
    return run if ran.returncode == 0 else None


def placements(bed, plain):
    """(a) and (c): where ranks are, and who holds which share, changes no bit."""
    four, two, uneven = LAYOUTS["4 x 1"], LAYOUTS["2 x 2"], LAYOUTS["3 + 1"]
    for layout, stage in (("4 x 1", 0), ("2 x 2", 0), ("3 + 1", 0), ("2 x 2", 1), ("2 x 2", 2), ("4 x 1", 3), ("2 x 2", 3),
                          ("3 + 1", 3)):
        name = f"{layout}, stage {stage}"
        run = on_hosts(bed, name, {"4 x 1": four, "2 x 2": two, "3 + 1": uneven}[layout], f"zero.stage={stage}")
        if run:
            same_numbers(name, run, plain, STEPS)
            same_weights(name, run, plain)


def parts(bed):
    """Parts of a pipeline on hosts of their own, and on hosts of which one happens to have as many ranks as a part."""
    keys = ("parallel.pipeline=2", "zero.stage=1")
    plain = on_machine("plain-parts", JOB, *keys)
    for layout in ("2 x 2", "2 + 1 + 1", "1 + 2 + 1"):
        run = on_hosts(bed, f"{layout}, 2 parts", LAYOUTS[layout], *keys)
        if run:
            same_numbers(f"{layout}, 2 parts", run, plain, STEPS)
            same_weights(f"{layout}, 2 parts", run, plain)


def groups(bed, plain):
    """zero.shard_group: node: sums as in stage 0; so are all weights where the norm is not used, for clipping."""
    for stage in (1, 2, 3):
        name = f"shard group node, stage {stage}"
        run = on_hosts(bed, name, LAYOUTS["2 x 2"], f"zero.stage={stage}", "zero.shard_group=node", "optim.clip=0")
        if run:
            mine, its = h.metrics(run), h.metrics(plain)
            h.ok([m["loss"] for m in mine] == [m["loss"] for m in its], f"{name}: the loss, to the bit", mine)
            h.ok(all(abs(m["grad_norm"] - p["grad_norm"]) <= NORM_TOLERANCE * p["grad_norm"]
                     for m, p in zip(mine, its)), f"{name}: the norm but for its last bit", mine)
            same_weights(name, run, plain)
    for layout, *keys in (("3 + 1", "zero.stage=3"), ("1 + 2 + 1", "zero.stage=1"), ("3 + 1", "parallel.pipeline=2")):
        ran = bed.run(*command(h.work() / "unequal", LAYOUTS[layout], *keys, "zero.shard_group=node"))
        h.ok(ran.returncode == 65 and "'zero.shard_group' node needs as many ranks on every host, and 'node1' has" in
             ran.stderr, f"shard group node on {layout}, {keys[0]}, is refused", f"{ran.returncode} {ran.stdout}{ran.stderr}")


def kill_on(bed, host, word):
    pid = next((pid for pid, line in bed.processes(host).items() if word in line), None)
    return pid is not None and bed.on(host, "kill", "-KILL", str(pid)).returncode == 0


def disturbed(bed, plain):
    """(b): a rank is killed, a host is lost to the spare, and 2 x 2 go on from there."""
    for victim in ("rank", "host"):
        run = h.work() / f"killed-{victim}"
        spare = hosts(*((f"node{i}", 1) for i in range(1, 6)))
        log = h.work() / f"killed-{victim}.log"
        with open(log, "wb") as err:
            job = bed.start(h.DSRUN, "-q", "-H", spare, "--nodes", 4, "--restarts", 1, "--via", "ssh", "--run-dir", run,
                            LONG_JOB, f"train.steps={HALF}", stdout=err, stderr=err)
        wait_for(lambda: saved_step(run) >= 2 * EVERY or job.poll() is not None)
        hit = kill_on(bed, "node3", "dsrun-worker" if victim == "rank" else "dsrun-agent")
        h.ok(hit, f"a {victim} is killed while it trains", log.read_text())
        code = job.wait(LIMIT)
        used = [event["hosts"] for event in events(run) if event["event"] == "launch"]
        h.ok(code == 0 and len(used) == 2, f"killed {victim}: started again, it ends with 0",
             f"{code} {used}\n{log.read_text()}")
        if victim == "host":
            h.ok("node5" in used[-1] and "node3" not in used[-1], "the spare host has taken its place", used)
        name = f"killed {victim}, goes on as 2 x 2"
        ran = bed.run(*command(run, LAYOUTS["2 x 2"], f"train.steps={LONG}", job=LONG_JOB))
        h.ok(ran.returncode == 0, f"{name}: trains", ran.stdout + ran.stderr)
        same_numbers(name, run, plain, LONG)
        same_weights(name, run, plain)


def start_apart(bed):
    """(d): begun first, as the ranks try for a minute.  The head reaches both hosts."""
    bed.fault("apart:node8", "node7")
    log = h.work() / "apart.log"
    with open(log, "wb") as err:
        job = bed.start(*command(h.work() / "apart", hosts(*((f"node{i}", 1) for i in range(6, 10)))),
                        stdout=err, stderr=err)
    return job, log


def end_apart(job, log):
    code = job.wait(120)
    said = log.read_text()
    named = re.search(r"rank (\d) on '(\w+)' .*rank (\d) on '(\w+)'", said)
    # Both wait for the same minute, so either may tell first: the code is the same.
    h.ok(code == 69 and named and sorted(named.groups()) == ["1", "2", "node7", "node8"] and "launch.interface" in said,
         "hosts that cannot reach each other: both are named, and it ends", f"{code} {said}")


beds.require()
JOB = h.write_job("short.yaml", steps=STEPS, every=STEPS, seed=5, hidden=36, heads=3, ffn=52)
LONG_JOB = h.write_job("long.yaml", steps=LONG, every=EVERY, seed=6, hidden=36, heads=3, ffn=52)
LAYOUTS = {"4 x 1": hosts(*((f"node{i}", 1) for i in range(1, 5))), "2 x 2": hosts(("node1", 2), ("node2", 2)),
           "3 + 1": hosts(("node1", 3), ("node2", 1)), "2 + 1 + 1": hosts(("node1", 2), ("node2", 1), ("node3", 1)),
           "1 + 2 + 1": hosts(("node1", 1), ("node2", 2), ("node3", 1))}
with beds.Hosts(9) as real:
    apart = start_apart(real)
    placements(real, on_machine("plain", JOB))
    parts(real)
    groups(real, on_machine("no-clip", JOB, "optim.clip=0"))
    disturbed(real, on_machine("long", LONG_JOB))
    end_apart(*apart)
    h.ok(not any(real.processes(host) for host in real.names), "nothing is left on any host",
         {host: real.processes(host) for host in real.names})
h.done()
