#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""cgroup - the job's own control group on each host: ranks are in it, it kills what hides, and it never stays.

Root of a host of the bed may make groups below that of its sshd; another user may when they are given to it.
"""
import json
import pathlib
import re
import signal
import subprocess
import time

import beds
import harness as h

LIMIT = 40 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
# Each rank leaves a process in a session of its own that ignores SIGTERM, says where it is, and waits.
PROGRAM = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo hidden; sleep 300' &
sed -n 's/^0::/group /p' /proc/self/cgroup
[ "$1" != fail ] || [ $RANK != 1 ] || { sleep 1; exit 3; }
sleep 300
"""


def until(true):
    end = time.monotonic() + LIMIT
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def group_of(bed, host):
    return pathlib.Path((bed.base / "hosts" / host / "cgroup").read_text().strip())


def groups(bed):
    """What jobs have made on the hosts."""
    return [str(path) for host in bed.names for path in group_of(bed, host).glob("**/dsrun-*") if path.is_dir()]


class Run:
    _runs = 0

    def __init__(self, bed, *options, how="wait"):
        Run._runs += 1
        self.dir, self.log = h.work() / f"run-{Run._runs}", h.work() / f"log-{Run._runs}"
        with open(self.log, "wb") as log:
            self.process = bed.start(h.DSRUN, "launch", "-H", bed.hostfile, "--grace", 1, "--run-dir", self.dir, *options, "--", "sh", "-c",
                                     PROGRAM, "sh", how, stdout=log, stderr=subprocess.STDOUT)
        until(lambda: self.text().count("group ") >= len(bed.names) and self.text().count("hidden") >= len(bed.names)
              or self.process.poll() is not None)

    def text(self):
        return self.log.read_text(errors="replace")

    def told(self, key):
        said = [json.loads(line) for line in (self.dir / "events.jsonl").read_text().splitlines()]
        return [event[key] for event in said if event["event"] == "cgroup" and key in event]

    def end(self):
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
        return not still and not groups(bed)
    h.ok(until(look), f"{name}: no group and no process is left on any host", f"{groups(bed)} {still}")


def kill_agent(bed, host):
    pid = max((pid for pid, line in bed.processes(host).items() if "dsrun-agent" in line), default=0)
    return bed.on(host, "kill", "-KILL", str(pid))


def made(bed):
    run = Run(bed)
    paths = run.told("path")
    inside = re.findall(r"group (\S+)", run.text())
    h.ok(len(paths) == 2 and sorted(paths) == sorted(groups(bed)) and len(inside) == 2
         and all(any(path.endswith(group) for path in paths) for group in inside),
         "each host has one, ranks are in it, the record names it", f"{paths} {groups(bed)}\n{run.text()}")
    members = []

    def count():
        members[:] = [len((pathlib.Path(path) / "cgroup.procs").read_text().split()) for path in paths]
        return members == [4, 4]  # two shells and their sleeps
    h.ok(until(count), "so is what ranks have started, and nothing else", members)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.6)  # two signals at once are one
    run.process.send_signal(signal.SIGTERM)
    h.ok(run.end() == 143, "killed at a second signal", run.text())
    clean(bed, "killed")
    run = Run(bed, how="fail")
    h.ok(run.end() == 3, "a failure ends those that ignore SIGTERM", run.text())
    clean(bed, "failed")
    run = Run(bed)
    kill_agent(bed, "node2")
    h.ok(run.end() == 70, "an agent is killed", run.text())
    clean(bed, "an agent is killed")
    run = Run(bed)
    run.process.kill()
    run.end()
    clean(bed, "dsrun is killed")


def stale(bed):
    """A host that crashes leaves its group, as guard and agent are gone; the next job there removes it."""
    run = Run(bed, "--start-timeout", "20")
    bed.fault("kill", "node2")
    run.end()
    left = groups(bed)
    h.ok(len(left) == 1, "a host that crashes leaves one", left)
    bed.fault("boot", "node2")
    stranger = group_of(bed, "node2") / "dsrun-mine"
    stranger.mkdir()
    run = Run(bed, how="fail")
    code = run.end()
    h.ok(code == 3 and groups(bed) == [str(stranger)], "the next job removes it, and no other's", f"{code} {groups(bed)}")
    stranger.rmdir()
    clean(bed, "after it")


def here():
    """Ranks of this machine: dsrun itself is the guard."""
    run_dir = h.work() / "here"
    with open(h.work() / "here.log", "wb") as log:
        job = subprocess.Popen([h.DSRUN, "launch", "--grace", "1", "--run-dir", run_dir, "--", "sh", "-c", PROGRAM, "sh", "wait"], stdout=log,
                               stderr=log, cwd=h.work(), env=h.environment())
    until(lambda: "hidden" in (h.work() / "here.log").read_text() or job.poll() is not None)
    said = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    path = next((event["path"] for event in said if event["event"] == "cgroup" and "path" in event), None)
    there = path is not None and pathlib.Path(path).is_dir()
    if there:
        subprocess.run(["kill", "-KILL", pathlib.Path(path).name.rpartition("-")[2]], check=True)
    job.wait(LIMIT)
    h.ok(there and not pathlib.Path(path).exists(), "on this machine: its agent is killed, its group is gone", said)


def others():
    """A user who may not make groups goes on without; one to whom they were given has them."""
    with beds.Hosts(2, user="tester") as bed:
        run = Run(bed, how="fail")
        h.ok(run.end() == 3 and len(run.told("none")) == 2 and "Permission denied" in run.told("none")[0],
             "a user without the right to: the job runs without, and the record says why", run.text())
        uid = re.search(r"^LOGIN_UID=(\d+)", (bed.base / "bed").read_text(), re.M).group(1)
        for host in bed.names:
            for path in (group_of(bed, host), group_of(bed, host) / "cgroup.procs"):
                subprocess.run(["chown", uid, path], check=True)
        run = Run(bed)
        h.ok(len(run.told("path")) == 2 and len(groups(bed)) == 2, "a user to whom groups were given", run.text())
        kill_agent(bed, "node1")
        h.ok(run.end() == 70, "and loses an agent", run.text())
        clean(bed, "a user's")


beds.require()
with beds.Hosts(2) as real:
    if not (real.base / "hosts" / "node1" / "cgroup").exists():
        h.skip("cgroups", "no cgroup v2 that can be written to on this machine")
        h.done()
    made(real)
    stale(real)
    ran = real.run(h.DSRUN, "exec", "-H", real.hostfile, "--", "cat", "/proc/self/cgroup")
    h.ok(ran.returncode == 0 and "dsrun-" not in ran.stdout, "exec makes none", ran.stdout + ran.stderr)
here()
others()
h.done()
