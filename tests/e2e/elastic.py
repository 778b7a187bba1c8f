#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""elastic - a job goes on with the hosts that are left: --nodes MIN:MAX over ssh on real hosts.

Of training the numbers are those of a run that is stopped and continued by hand on as many hosts.  How many hosts
and which are left out: tests/launcher/test_spares.c, tests/sim/; inside Slurm: slurm.py.
"""
import json
import os
import re
import subprocess
import time

import beds
import harness as h

STEPS, EVERY = 800, 20
LIMIT = 60 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
# What torchrun tells a rank; then it waits, but in the last attempt.
PROGRAM = """
echo "attempt $TORCHELASTIC_RESTART_COUNT: rank $RANK/$WORLD_SIZE local $LOCAL_RANK/$LOCAL_WORLD_SIZE \
group $GROUP_RANK/$GROUP_WORLD_SIZE role $ROLE_RANK/$ROLE_WORLD_SIZE node $NODE_RANK on $(hostname) master $MASTER_ADDR"
[ $TORCHELASTIC_RESTART_COUNT != $1 ] || exit 0
sleep 300
"""


def until(true):
    end = time.monotonic() + LIMIT
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def hosts(*lines):
    path = h.work() / f"hosts.{time.monotonic_ns()}"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def begin(bed, *words):
    """The Popen of dsrun and the log of it."""
    log = h.work() / f"log.{time.monotonic_ns()}"
    with open(log, "wb") as out:
        return bed.start(h.DSRUN, *words, stdout=out, stderr=subprocess.STDOUT), log


def train(bed, hostfile, run, *words):
    return begin(bed, "run", "-H", hostfile, "--via", "ssh", "--run-dir", run, *words)


def events(run, name):
    try:
        said = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [event for event in said if event["event"] == name]


def saved_step(run):
    try:
        return int(os.readlink(run / "checkpoints" / "latest").rpartition("-")[2])
    except OSError:
        return 0


def kill_agent(bed, host):
    pid = next((pid for pid, line in bed.processes(host).items() if "dsrun-agent" in line), None)
    return pid is not None and bed.on(host, "kill", "-KILL", str(pid)).returncode == 0


def used(run):
    return [(event["hosts"], event["ranks"]) for event in events(run, "launch")]


def training(bed):
    """One of three hosts is lost; by hand, another run is continued on two where it went on."""
    run, twin, three = h.work() / "run", h.work() / "twin", hosts("node1", "node2", "node3")
    job, log = train(bed, three, run, "--nodes", "2:3", "--restarts", 1, JOB)
    until(lambda: events(run, "started") or job.poll() is not None)
    listed = bed.run(h.DSRUN, "ps", "--json").stdout
    until(lambda: saved_step(run) >= 2 * EVERY or job.poll() is not None)
    hit = kill_agent(bed, "node2")
    until(lambda: len(used(run)) == 2 or job.poll() is not None)
    later = bed.run(h.DSRUN, "ps", "--json").stdout
    code, said = job.wait(LIMIT), log.read_text()
    h.ok(hit and code == 0 and used(run) == [(["node1", "node2", "node3"], 3), (["node1", "node3"], 2)],
         "a job of three hosts goes on with two", f"{code} {used(run)}\n{said}")
    h.ok("starting again in 1 s (restart 1) with 2 hosts, 2 ranks" in said, "and says so", said)
    told = [(event.get("hosts"), event.get("ranks")) for event in events(run, "restart")]
    h.ok(told == [(2, 2)] and "6 passes" in events(run, "launch")[1].get("header", ""), "in its record, too", events(run, "launch"))
    h.ok('"hosts":3,"ranks":3' in listed and '"hosts":2,"ranks":2' in later, "dsrun ps has the number of now", listed + later)
    shown = bed.run(h.DSRUN, "attach", run, "--lines", 2 * STEPS)
    h.ok(shown.returncode == 0 and "starting again in 1 s (restart 1) with 2 hosts, 2 ranks" in shown.stderr
         and "6 passes" in shown.stdout, "so has dsrun attach", f"{shown.returncode} {shown.stderr} {shown.stdout[-600:]}")
    at = [event["step"] for event in events(run, "resumed")][-1]
    for nodes, steps in ((3, at), (2, STEPS)):
        ran = bed.run(h.DSRUN, "-q", "-H", hosts("node1", "node3", "node2"), "--nodes", nodes, "--via", "ssh", "--run-dir", twin, JOB,
                      f"train.steps={steps}")
        h.ok(ran.returncode == 0, f"by hand: to step {steps} on {nodes} hosts", ran.stdout + ran.stderr)
    mine, its = h.metric_texts(run), h.metric_texts(twin)
    h.ok(len(its) == STEPS and mine == its, f"loss and norm are those of a run continued by hand at step {at}, to the byte",
         [pair for pair in zip(mine, its) if pair[0] != pair[1]][:3] or (len(mine), len(its)))
    diff = h.dsrun("ckpt", "diff", run, twin)
    h.ok(diff.returncode == 0, "weights and moments, to the bit", diff.stdout + diff.stderr)


def programs(bed):
    """The first host is lost: ranks are counted anew, and another host is the master."""
    run = h.work() / "programs"
    job, log = begin(bed, "launch", "-H", hosts(*(f"node{i} slots=2" for i in (1, 2, 3))), "--nodes", "2:3", "--restarts", 1,
                     "--run-dir", run, "--grace", 1, "--", "sh", "-c", PROGRAM, "sh", 1)
    until(lambda: len(re.findall("attempt 0", log.read_text())) == 6 or job.poll() is not None)
    hit = kill_agent(bed, "node1")
    code, said = job.wait(LIMIT), log.read_text()
    seen = sorted(re.findall(r"attempt 1: (.*)", said))
    want = [f"rank {r}/4 local {r % 2}/2 group {r // 2}/2 role {r}/4 node {r // 2} on node{r // 2 + 2} master " for r in range(4)]
    h.ok(hit and code == 0 and [line.rpartition(" ")[0] + " " for line in seen] == want and
         len({line.rpartition(" ")[2] for line in seen}) == 1, "a program goes on with two hosts, its ranks counted anew", f"{code}\n{said}")
    h.ok(used(run) == [(["node1", "node2", "node3"], 6), (["node2", "node3"], 4)], "its record says so", used(run))


def unreachable(bed):
    """Hosts that cannot be reached when the job begins are lost ones; a spare is taken before there are fewer."""
    for down, nodes, want in ((("node1",), "2:4", ["node2", "node3", "node4"]), (("node2",), "2:3", ["node1", "node4", "node3"]),
                              (("node1", "node4"), "2:4", ["node2", "node3"])):
        bed.fault("reject", *down)
        run = h.work() / f"unreachable-{len(list(h.work().iterdir()))}"
        job, log = begin(bed, "launch", "-H", bed.hostfile, "--nodes", nodes, "--restarts", 1, "--restart-backoff", 0, "--run-dir", run,
                         "--grace", 1, "--", "true")
        code = job.wait(LIMIT)
        h.ok(code == 0 and used(run)[-1][0] == want, f"{nodes} without {' and '.join(down)}: it runs on the others",
             f"{code} {used(run)}\n{log.read_text()}")
        bed.fault("heal", *down)
    bed.fault("reject", "node1")
    ran = bed.run(h.DSRUN, "launch", "-H", bed.hostfile, "--nodes", "2:4", "--", "true")
    h.ok(ran.returncode == 69 and "host 'node1'" in ran.stderr, "without --restarts that is the end", f"{ran.returncode} {ran.stderr}")
    bed.fault("heal", "node1")


def too_few(bed):
    """MIN hosts, and one is lost: it is tried again; when it stays away that is the end."""
    for back in (True, False):
        run = h.work() / f"too-few-{back}"
        job, log = train(bed, hosts("node1", "node2", "node3"), run, "--nodes", "2:3", "--restarts", 4, "--restart-backoff", 0, JOB)
        for count, host in enumerate(("node2", "node3")):
            until(lambda: len(events(run, "started")) == count + 1 and saved_step(run) >= (count + 2) * EVERY or job.poll() is not None)
            if count == 1 and not back:
                bed.fault("reject", host)
            kill_agent(bed, host)
        code, said = job.wait(LIMIT), log.read_text()
        h.ok("1 host is left, and '--nodes' is 2:3: all are tried again" in said, "two are wanted, one is left: that is said", said)
        h.ok(code == (0 if back else 69) and used(run)[-1] == (["node1", "node3"], 2),
             "the lost host is back, the job goes on" if back else "it is not: the end, 69", f"{code} {used(run)}\n{said}")
        bed.fault("heal", "node3")


def divided(bed):
    """8 sequences are not for 3 ranks: two hosts go on, and the third is a spare."""
    run = h.work() / "divided"
    job, log = train(bed, bed.hostfile, run, "--nodes", "2:4", "--restarts", 3, "--restart-backoff", 0, JOB, "train.global_batch=8")
    for count, host in enumerate(("node1", "node2")):
        until(lambda: len(events(run, "started")) == count + 1 and saved_step(run) >= (count + 2) * EVERY or job.poll() is not None)
        kill_agent(bed, host)
    code = job.wait(LIMIT)
    h.ok(code == 0 and used(run) == [(bed.names, 4), (["node2", "node3"], 2), (["node4", "node3"], 2)],
         "8 sequences: of 3 hosts two go on, and the third is their spare", f"{code} {used(run)}\n{log.read_text()}")
    ran = bed.run(h.DSRUN, "--dry-run", "-H", hosts("node1", "node2", "node3"), "--nodes", "1:3", JOB, "train.global_batch=8")
    h.ok(ran.returncode == 0 and re.findall(r"^rank \d+  host (\S+)", ran.stdout, re.M) == ["node1", "node2"],
         "and of 3 at the start", ran.stdout + ran.stderr)
    ran = bed.run(h.DSRUN, "check", "-H", hosts("other[1-7]"), "--nodes", "5:7", JOB, "train.global_batch=8")
    h.ok(ran.returncode == 65 and "'train.global_batch' 8 must be a multiple of ranks x micro_batch = 7 x 1" in ran.stderr,
         "a range without a number that would do is refused", ran.stderr)
    job, log = train(bed, bed.hostfile, h.work() / "undivided", "--nodes", "3:4", "--restarts", 1, JOB, "train.global_batch=8")
    until(lambda: saved_step(h.work() / "undivided") or job.poll() is not None)
    kill_agent(bed, "node1")
    code, said = job.wait(LIMIT), log.read_text()
    h.ok(code == 0 and "3 hosts are left, and '--nodes' is 3:4, of which the job can use 4: all are tried again" in said,
         "how many would do is said, and the lost host tried again", f"{code} {said}")


def chosen():
    """The largest number of 1:8 hosts of two ranks that `dsrun check` lets pass; nothing is started."""
    eight = hosts(*(f"other{i} slots=2" for i in range(1, 9)))
    wide = ("model.hidden=32", "model.heads=4", "model.ffn=64")
    uneven = hosts("other1 slots=2", "other2 slots=2", "other3 slots=1")
    for keys, hostfile, most, want in (
            (("train.global_batch=16",), eight, 8, 8), (("train.global_batch=12",), eight, 8, 6),
            (("train.global_batch=12", "train.micro_batch=2"), eight, 8, 3), (("train.global_batch=6", "parallel.tensor=4", *wide), eight, 8, 6),
            (("train.global_batch=6", "parallel.sequence=4", *wide), eight, 8, 6), (("train.global_batch=10", "parallel.data=5"), eight, 8, None),
            (("train.global_batch=10", "parallel.data=10"), eight, 8, 5), (("train.global_batch=20", "parallel.pipeline=2"), eight, 8, 5),
            (("train.global_batch=20",), uneven, 3, 3), (("train.global_batch=20", "zero.stage=1", "zero.shard_group=node"), uneven, 3, 2)):
        words = ("-H", hostfile, "--nodes", f"1:{most}", JOB, *keys)
        ran, checked = h.dsrun("--dry-run", "--json", *words), h.dsrun("check", *words)
        placed = json.loads(ran.stdout)["placement"] if ran.returncode == 0 else []
        h.ok(len({rank["host"] for rank in placed}) == (want or 0) and (checked.returncode == 0) == (want is not None),
             f"{' '.join(keys)} of 1:{most} hosts: {want}", f"{ran.returncode} {len(placed)} {ran.stderr}{checked.stderr}")


def refused(bed):
    """Words that are none, each with what would be."""
    for word, code, why in (
            ("3:2", 2, "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '3:2'"),
            *((word, 2, f"'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '{word}'")
              for word in ("0:2", "2:", ":2", "a:b", "2:x", "1:2:3", "-1:2", "1:65537")),
            ("2:9", 2, "'--nodes 2:9': there are only 4 hosts, so MAX can be 4 at most"),
            ("5:9", 2, "'--nodes 5:9': there are only 4 hosts"), ("5", 2, "'--nodes 5': there are only 4 hosts")):
        ran = bed.run(h.DSRUN, "launch", "-H", bed.hostfile, "--dry-run", "--nodes", word, "--", "true")
        h.ok(ran.returncode == code and ran.stderr == f"dsrun: error: {why}\n", f"--nodes {word} is refused", f"{ran.returncode} {ran.stderr}")
    ran = bed.run(h.DSRUN, "exec", "-H", bed.hostfile, "--nodes", "2:4", "--", "true")
    h.ok(ran.returncode == 2 and "'--nodes' takes one number with 'exec', which starts nothing again" in ran.stderr,
         "a range is for what is started again", ran.stderr)


beds.require()
# A schedule that does not depend on how long the run is; 12 sequences for 3 ranks or 2.
JOB = h.write_job("job.yaml", steps=STEPS, every=EVERY, seed=7, hidden=36, heads=3, ffn=52, batch=12)
chosen()
with beds.Hosts(4) as real:
    training(real)
    programs(real)
    unreachable(real)
    too_few(real)
    divided(real)
    refused(real)
    h.ok(until(lambda: not any(real.processes(host) for host in real.names)), "nothing is left on any host",
         {host: real.processes(host) for host in real.names})
h.done()
