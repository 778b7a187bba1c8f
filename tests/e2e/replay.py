#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""replay - twelve things that go wrong with other launchers, on real hosts over ssh.

The same under Slurm, where it applies: slurm.py.  Faults of every kind in numbers: campaign.py.
"""
import json
import shutil
import signal
import subprocess
import time

import beds
import harness as h

LIMIT = 40  # seconds for anything to happen; nothing takes nearly as long
beds.require()
LIBEXEC = h.work() / "libexec"
LIBEXEC.mkdir()
shutil.copy(h.BUILD / "libexec" / "dsrun" / "dsrun-agent", LIBEXEC / "dsrun-agent")
shutil.copy(h.BUILD / "tests" / "e2e" / "fake_worker", LIBEXEC / "dsrun-worker")
JOB = h.write_job(steps=10, batch=8)
_runs = 0


def until(true, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Run:
    """One dsrun on the head, started; output in a file."""

    def __init__(self, bed, *options, hosts=None, wait=True, **fake):
        global _runs
        _runs += 1
        self.bed, self.dir, self.log = bed, h.work() / f"run-{_runs}", h.work() / f"log-{_runs}"
        words = ["-H", hosts or bed.hostfile, "--via", "ssh", "--run-dir", self.dir, *options]
        for name, script in fake.items():
            words += ["--env", f"{name}={script}"]
        with open(self.log, "wb") as log:
            self.process = bed.start(h.DSRUN, *words, JOB, stdout=log, stderr=log, DSRUN_LIBEXEC=str(LIBEXEC))
        if wait:
            until(lambda: self.has("started") or self.process.poll() is not None)

    def has(self, event):
        try:
            return any(json.loads(line)["event"] == event for line in (self.dir / "events.jsonl").read_text().splitlines())
        except (OSError, ValueError):
            return False

    def text(self):
        return self.log.read_text(errors="replace")

    def end(self):
        """Its exit code, or None when it does not end."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None


def clean(bed, name):
    still = {}

    def look():
        still.clear()
        still.update({host: found for host in bed.names if (found := bed.processes(host))})
        return not still
    h.ok(until(look), f"{name}: no process is left on any host", still)


def pid_of(bed, host, word):
    return max((pid for pid, line in bed.processes(host).items() if word in line), default=0)


def test_failures(bed):
    run = Run(bed, FAKE="deaf", FAKE_1="sleep:300;exit:3")
    h.ok(run.end() == 3 and "rank 1 on node2 ended with code 3" in run.text(),
         "a rank exits 3 while another sleeps: 3", run.text())
    clean(bed, "exit 3")
    run = Run(bed, FAKE="train:50", FAKE_1="sleep:300;kill:9")
    h.ok(run.end() == 137, "a rank is killed by SIGKILL: 137", run.text())
    clean(bed, "SIGKILL")
    run = Run(bed, FAKE="orphan;deaf")
    until(lambda: len(bed.processes("node2")) >= 4)
    bed.on("node2", "kill", "-KILL", str(pid_of(bed, "node2", "dsrun-agent")))
    h.ok(run.end() == 70 and "host 'node2' was lost" in run.text(), "an agent is killed: not 0, named", run.text())
    clean(bed, "an agent is killed, its ranks had daemons")
    run = Run(bed, FAKE="orphan;deaf")
    run.process.kill()
    run.process.wait()
    clean(bed, "dsrun is killed")
    run = Run(bed, "--grace", "1", FAKE="deaf")
    run.process.send_signal(signal.SIGTERM)
    h.ok(run.end() == 143, "SIGTERM, and ranks that do not listen: killed after the grace, 143", run.text())
    clean(bed, "SIGTERM")


def test_grace(bed):
    hosts = h.work() / "four.hosts"
    hosts.write_text("".join(f"{name} slots=4\n" for name in bed.names[:2]))
    run = Run(bed, "--grace", "1", hosts=hosts, FAKE="deaf")
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code = run.end()
    took = time.monotonic() - began
    h.ok(code == 130, f"eight ranks ignore a stop: killed together, 130 (after {took:.1f} s, grace 1 s)", run.text())
    clean(bed, "eight ranks")


def test_two_jobs(bed):
    first, second = Run(bed, FAKE="train:50"), Run(bed, FAKE="train:50")
    first.process.send_signal(signal.SIGINT)
    h.ok(first.end() == 75, "two jobs on the same hosts: one is stopped", first.text())
    h.ok(second.process.poll() is None and all(bed.processes(name) for name in bed.names),
         "and the other goes on", second.text())
    second.process.send_signal(signal.SIGINT)
    h.ok(second.end() == 75, "until it is stopped itself", second.text())
    clean(bed, "two jobs")


def test_login_noise(bed):
    bashrc = next(bed.base.glob("home/*/")) / ".bashrc"
    bashrc.write_text("echo 'Welcome; DSRUN is here'\nprintf 'noise\\001\\377\\n' >&2\nprintf 'no line end'\n")
    run = Run(bed, FAKE="out:hello")
    h.ok(run.end() == 0, "a banner on stdout and stderr has no effect", run.text())
    bashrc.unlink()


def test_slots(bed):
    hosts = h.work() / "unequal.hosts"
    hosts.write_text(f"{bed.names[0]} slots=3\n{bed.names[1]} slots=1\n{bed.names[2]} slots=4\n")
    run = Run(bed, hosts=hosts, FAKE="env:LOCAL_RANK;env:LOCAL_WORLD_SIZE;env:NODE_RANK")
    code = run.end()
    seen = [(run.dir / f"logs/rank-{rank:05}.log").read_text().split() for rank in range(8)]
    want = [[str(local), str(slots), str(node)] for node, slots in enumerate((3, 1, 4)) for local in range(slots)]
    h.ok(code == 0 and seen == want, "unequal slots: LOCAL_RANK from 0 on each host, in order", f"{seen}\n{run.text()}")


def test_names(bed):
    run = Run(bed, hosts=h.work() / "missing", wait=False, FAKE="")
    h.ok(run.end() == 2 and "missing" in run.text(), "a hostfile that is missing: 2", run.text())
    variables = h.work() / "variables.env"
    variables.write_text("# a comment\n\nexport A=one\nB='two words'\nC=\"three # words\"\n")
    run = Run(bed, "--env-file", variables, FAKE="env:A;env:B;env:C")
    h.ok(run.end() == 0 and (run.dir / "logs/rank-00001.log").read_text() == "one\ntwo words\nthree # words\n",
         "an env file with blank lines, comments, export and quotes", run.text())


def test_keys(bed):
    known = next(bed.base.glob("home/*/.ssh/")) / "known_hosts"
    text = known.read_text()
    lines = text.splitlines()
    node3 = next(line for line in lines if line.split()[0].split(",")[0] == "node3")
    other = next(line for line in lines if line.split()[0].split(",")[0] == "node2").split()
    for name, changed in [("unknown", [line for line in lines if line != node3]),
                          ("changed", [line if line != node3 else " ".join([line.split()[0], *other[1:]]) for line in lines])]:
        known.write_text("\n".join(changed) + "\n")
        run = Run(bed, wait=False, FAKE="deaf")
        code = run.end()
        started = [host for host in bed.names if bed.processes(host)]
        h.ok(code == 69 and "node3" in run.text() and not run.has("started") and not started,
             f"a host key that is {name}: 69, nothing is started anywhere", f"{code} {started}\n{run.text()}")
    known.write_text(text)


with beds.Hosts(4) as the_bed:
    for test in [value for name, value in list(globals().items()) if name.startswith("test_")]:
        test(the_bed)
h.done()
