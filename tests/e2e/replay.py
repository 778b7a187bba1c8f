#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""replay - the cases of other launchers' tests and complaints that only real hosts show, over ssh and under Slurm.

docs/replay.md lists all cases and where each is tested.  Faults of every kind in numbers: campaign.py.
"""
import json
import shutil
import signal
import subprocess
import time

import beds
import harness as h
import places
from places import until

LIMIT = 60 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
beds.require()
LIBEXEC = h.work() / "libexec"
LIBEXEC.mkdir()
shutil.copy(h.BUILD / "libexec" / "dsrun" / "dsrun-agent", LIBEXEC / "dsrun-agent")
shutil.copy(h.BUILD / "tests" / "e2e" / "fake_worker", LIBEXEC / "dsrun-worker")
JOB = h.write_job(steps=10, batch=24)
PROLOG = h.work() / "prolog"  # what Slurm lets a site print into every task
PROLOG.write_text("#!/bin/sh\n")
PROLOG.chmod(0o755)
_runs = 0


class Run:
    """One dsrun, started; output in a file."""

    def __init__(self, place, *options, hosts=None, wait=True, **fake):
        global _runs
        _runs += 1
        self.place, self.dir = place, h.work() / f"run-{_runs}"
        words = ["--run-dir", self.dir, *options]
        for name, script in fake.items():
            words += ["--env", f"{name}={script}"]
        self.process = place.start("run", *words, JOB, hosts=hosts, DSRUN_LIBEXEC=str(LIBEXEC))
        self.said = None
        if wait:
            until(lambda: self.has("started") or self.process.poll() is not None)

    def has(self, event):
        try:
            return any(json.loads(line)["event"] == event for line in (self.dir / "events.jsonl").read_text().splitlines())
        except (OSError, ValueError):
            return False

    def end(self):
        """Its exit code, or None when it does not end."""
        try:
            out, err = self.process.communicate(timeout=LIMIT)
            code = self.process.returncode
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            code = None
        self.said = (out + err).decode(errors="replace")
        return code

    def text(self):
        return self.said or ""

    def log(self, rank):
        path = self.dir / f"logs/rank-{rank:05}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def clean(place, name):
    still = place.left()
    h.ok(not still, f"{name}: no process is left on any host", still)


# Every case is run over ssh, then under Slurm, and is named so.

def test_failures(place, by):
    run = Run(place, FAKE="deaf", FAKE_1="sleep:300;exit:3")
    h.ok(run.end() == 3 and "rank 1 on node2 ended with code 3" in run.text(),
         f"{by}: a rank exits 3 while another sleeps: 3", run.text())
    clean(place, f"{by}: exit 3")
    run = Run(place, FAKE="train:50", FAKE_1="sleep:300;kill:9")
    h.ok(run.end() == 137 and "rank 1 on node2 was killed by signal 9" in run.text(),
         f"{by}: a rank is killed by SIGKILL: 137", run.text())
    clean(place, f"{by}: SIGKILL")
    run = Run(place, FAKE="orphan;deaf")
    until(lambda: place.running("dsrun-worker") >= 2 * len(place.names))
    place.kill("dsrun-agent", host=1)
    h.ok(run.end() == 70 and "host 'node2' was lost" in run.text(), f"{by}: an agent is killed: not 0, named", run.text())
    clean(place, f"{by}: an agent is killed, its ranks had daemons")
    run = Run(place, FAKE="orphan;deaf")
    until(lambda: place.running("dsrun-worker") >= 2 * len(place.names))
    place.kill("dsrun-agent", host=2, which=min)
    h.ok(run.end() == 70 and "host 'node3' was lost" in run.text(), f"{by}: an agent's guard is killed: the same", run.text())
    clean(place, f"{by}: a guard is killed, the ranks had daemons")
    run = Run(place, FAKE="orphan;deaf")
    run.process.kill()
    run.end()
    clean(place, f"{by}: dsrun is killed")
    run = Run(place, "--grace", "1", FAKE="deaf")
    run.process.send_signal(signal.SIGTERM)
    h.ok(run.end() == 143, f"{by}: SIGTERM, and ranks that do not listen: killed after the grace, 143", run.text())
    clean(place, f"{by}: SIGTERM")


def test_grace(place, by):
    hosts = place.hostfile("".join(place.line(i, slots=4) + "\n" for i in range(2)))
    run = Run(place, "--grace", "1", hosts=hosts, FAKE="deaf")
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code = run.end()
    took = time.monotonic() - began
    h.ok(code == 130, f"{by}: eight ranks ignore a stop: killed together, 130 (after {took:.1f} s, grace 1 s)", run.text())
    clean(place, f"{by}: eight ranks")


def test_two_jobs(place, by):
    first, second = Run(place, FAKE="train:50"), Run(place, FAKE="train:50")
    first.process.send_signal(signal.SIGINT)
    h.ok(first.end() == 75, f"{by}: two jobs on the same hosts: one is stopped", first.text())
    h.ok(second.process.poll() is None and place.running("dsrun-worker") == len(place.names),
         f"{by}: and the other goes on", second.text())
    second.process.send_signal(signal.SIGINT)
    h.ok(second.end() == 75, f"{by}: until it is stopped itself", second.text())
    clean(place, f"{by}: two jobs")


def test_noise(place, by):
    """What a login, or a site's prolog of tasks, prints where dsrun's own frames are expected."""
    bashrc = next(place.bed.base.glob("home/*/")) / ".bashrc"
    bashrc.write_text("echo 'Welcome; DSRUN is here'\nprintf 'noise\\001\\377\\n' >&2\nprintf 'no line end'\n")
    quiet = PROLOG.read_text()
    PROLOG.write_text(quiet + "echo 'print Welcome; DSRUN is here'\nprintf 'noise\\001\\377\\n' >&2\n"
                      "echo 'export FROM_PROLOG=set'\n")
    run = Run(place, FAKE="out:hello;env:FROM_PROLOG")
    h.ok(run.end() == 0 and run.log(3).startswith("hello\n"), f"{by}: a banner on stdout and stderr has no effect",
         run.text() + run.log(3))
    if by == "slurm":
        h.ok(run.log(3) == "hello\nset\n", "slurm: though the prolog ran, and its variables reach ranks", run.log(3))
    bashrc.unlink()
    PROLOG.write_text(quiet)


def test_slots(place, by):
    hosts = place.hostfile("".join(place.line(i, slots=n) + "\n" for i, n in enumerate((3, 1, 4))))
    run = Run(place, hosts=hosts, FAKE="env:LOCAL_RANK;env:LOCAL_WORLD_SIZE;env:NODE_RANK")
    code = run.end()
    seen = [run.log(rank).split() for rank in range(8)]
    want = [[str(local), str(slots), str(node)] for node, slots in enumerate((3, 1, 4)) for local in range(slots)]
    h.ok(code == 0 and seen == want, f"{by}: unequal slots: LOCAL_RANK from 0 on each host, in order",
         f"{seen}\n{run.text()}")


def test_names(place, by):
    run = Run(place, hosts=h.work() / "missing", wait=False, FAKE="")
    h.ok(run.end() == 2 and "missing" in run.text(), f"{by}: a hostfile that is missing: 2", run.text())
    variables = h.work() / "variables.env"
    variables.write_text("# a comment\n\nexport A=one\nB='two words'\nC=\"three # words\"\n")
    run = Run(place, "--env-file", variables, FAKE="env:A;env:B;env:C")
    h.ok(run.end() == 0 and run.log(1) == "one\ntwo words\nthree # words\n",
         f"{by}: an env file with blank lines, comments, export and quotes", run.text())


def test_keys(place, by):
    """ssh alone: Slurm's nodes have no host keys, munge proves them; the job's own key is slurm.py's."""
    if by != "ssh":
        return
    known = next(place.bed.base.glob("home/*/.ssh/")) / "known_hosts"
    text = known.read_text()
    lines = text.splitlines()
    node3 = next(line for line in lines if line.split()[0].split(",")[0] == "node3")
    other = next(line for line in lines if line.split()[0].split(",")[0] == "node2").split()
    for name, changed in [("unknown", [line for line in lines if line != node3]),
                          ("changed", [line if line != node3 else " ".join([line.split()[0], *other[1:]]) for line in lines])]:
        known.write_text("\n".join(changed) + "\n")
        run = Run(place, wait=False, FAKE="deaf")
        code = run.end()
        started = [host for host in place.names if place.bed.processes(host)]
        h.ok(code == 69 and "node3" in run.text() and not run.has("started") and not started,
             f"a host key that is {name}: 69, nothing is started anywhere", f"{code} {started}\n{run.text()}")
    known.write_text(text)


def test_srun(place, by):
    """Slurm alone: the launcher has a child, whose end is that of all."""
    if by != "slurm":
        return
    run = Run(place, FAKE="orphan;deaf")
    srun = [pid for pid, line in h.processes().items() if line.startswith("srun --nodes=4")]
    for pid in srun:
        subprocess.run(["kill", "-KILL", str(pid)], check=False)
    h.ok(run.end() in (69, 70) and srun, "slurm: srun is killed: not 0", run.text())
    clean(place, "slurm: srun is killed")


for the_place in places.beds_of(4, conf=f"TaskProlog={PROLOG}"):
    for test in [value for name, value in list(globals().items()) if name.startswith("test_")]:
        test(the_place, the_place.name)
h.done()
