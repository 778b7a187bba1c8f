#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""campaign - seeded faults on jobs of 8 real hosts over ssh: the cause is named, in time, and nothing stays.

    tests/e2e/campaign.py [TRIALS [SEED]]        24 trials without words; `make campaign` runs 200

A trial starts a job of fake ranks that make steps, waits a moment drawn from the seed, and does one thing:
kills a rank, an agent, the sshd that serves a host, or dsrun; stops (SIGSTOP) a rank, an agent or dsrun; cuts a
host off; fills its disk; freezes it.  The job must end with the code and the sentence of that fault, and then no
process, connection, cgroup, shared memory or file of it may be on any host, nor on the one that dsrun runs on.
One trial in four has a spare host and a restart, and must go on there.  The beds, of 9 hosts each, are worked
on side by side.

Between the fault and the end, or the new start, lie at most the grace and two seconds; before that the heartbeat
limit where a host falls silent, the hang limit where a rank does.  From the record of the job, which says when:
not from when this program came to look.  What the machine itself stood still is added: the longest that another
process, which only sleeps and works a little, was late in that time.
"""
import atexit
import concurrent.futures
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import beds
import harness as h

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 24
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 1
HOSTS, BEDS, HEARTBEAT, GRACE, HANG = 8, 6, 3.0, 2.0, 2.0
STALL = 2.0 + HANG + 1.0  # of a stopped rank: the others make 20 steps of 100 ms, wait, and are asked where they are
PATIENCE = 30.0  # how long this program waits for what it then measures

beds.require()
LIBEXEC = h.work() / "libexec"
LIBEXEC.mkdir()
shutil.copy(h.BUILD / "libexec" / "dsrun" / "dsrun-agent", LIBEXEC / "dsrun-agent")
shutil.copy(h.BUILD / "tests" / "e2e" / "fake_worker", LIBEXEC / "dsrun-worker")
JOB = h.write_job(steps=10, batch=HOSTS)

#        fault            code  what the sentence must say; {rank} and {host} are the victim's
FAULTS = {
    "kill a rank":      (137, r"rank {rank} on {host} was killed by signal 9"),
    "kill an agent":    (70, r"host '{host}' was lost: "),
    "kill sshd's child": (70, r"host '{host}' was lost: "),
    "kill dsrun":       (-9, None),
    "stop a rank":      (124, r"hang: .* rank {rank} on {host}, .* does not answer"),
    "stop an agent":    (70, r"host '{host}' was lost: it is frozen: .*for 3 s"),
    "stop dsrun":       (124, r"dsrun itself was stopped"),
    "cut a host":       (70, r"host '{host}' was lost: it cannot be reached: .*for 3 s"),
    "fill a disk":      (1, r"rank {rank} on {host} ended with code 1: a disk is full"),
    "freeze a host":    (70, r"host '{host}' was lost: it is frozen: .*for 3 s"),
}
SILENT = ("stop an agent", "cut a host", "freeze a host", "kill dsrun", "stop dsrun")
# Those that a host is to blame for: its spare takes over at once.
LOSES_HOST = ("kill an agent", "kill sshd's child", "stop an agent", "cut a host", "freeze a host")


class Metronome(threading.Thread):
    """How late is a process that wants to run every 50 ms?  Another one: this one's threads hinder each other."""

    BEAT = ("import time\nwhile True:\n began = time.time(); time.sleep(0.05)\n for _ in range(20000): pass\n"
            " print(began, time.time(), flush=True)")

    def __init__(self):
        super().__init__(daemon=True)
        self.process = subprocess.Popen([sys.executable, "-c", self.BEAT], stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.late = []  # (when, by how much) of those that count
        self.start()

    def run(self):
        usual = 0.06
        for line in self.process.stdout:
            began, ended = map(float, line.split())
            if ended - began > 2 * usual:
                self.late.append((ended, ended - began - usual))

    def stood_still(self, begin, end):
        return sum(late for when, late in list(self.late) if begin <= when <= end + 0.1)


def wait_for(true, seconds):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


class Trial:
    def __init__(self, number):
        self.dice = random.Random(f"{SEED}/{number}")
        self.number = number
        self.fault = list(FAULTS)[number % len(FAULTS)]
        self.rank = self.dice.randrange(HOSTS)
        self.host = f"node{self.rank + 1}"
        self.spare = self.fault in LOSES_HOST and self.dice.random() < 0.5
        self.run = h.work() / f"run-{number}"
        self.err = h.work() / f"err-{number}"
        self.struck, self.took, self.stood, self.limit = 0.0, 0.0, 0.0, 0.0
        self.wrong = []
        self.process, self.before = None, {}
        self.err.touch()

    def say(self, what):
        self.wrong.append(what)

    def events(self):
        try:
            return [json.loads(line) for line in (self.run / "events.jsonl").read_text().splitlines()]
        except (OSError, ValueError):
            return []

    def count(self, name):
        return len(self.times(name))

    def times(self, name):
        return [event["time"] for event in self.events() if event["event"] == name]

    def start(self, bed):
        script = f"train:{self.dice.choice((20, 50, 100))}"
        if self.fault == "stop a rank":  # the others come to wait for it
            script = "train:100:20"
        victim = f"sleep:400;fill:/tmp/full-{self.number}" if self.fault == "fill a disk" else script
        options = ["-H", bed.hostfile, "--nodes", HOSTS, "--via", "ssh", "--heartbeat", HEARTBEAT, "--grace", GRACE,
                   "--run-dir", self.run, "--env", f"FAKE={script}", "--env", f"FAKE_{self.rank}={victim}"]
        if self.spare:
            options += ["--restarts", 1]
        with open(self.err, "wb") as log:
            self.process = bed.start(h.DSRUN, *options, JOB, f"launch.hang={HANG}", stdout=log, stderr=log,
                                     DSRUN_LIBEXEC=str(LIBEXEC))
        return wait_for(lambda: self.count("started") or self.process.poll() is not None, 60) and \
            self.process.poll() is None

    def pid_on_host(self, bed, word):
        return max((pid for pid, line in bed.processes(self.host).items() if word in line), default=None)

    def strike(self, bed):
        kind = self.fault
        number = "KILL" if kind.startswith("kill") else "STOP"
        if kind in ("kill dsrun", "stop dsrun"):
            self.process.send_signal(signal.SIGKILL if number == "KILL" else signal.SIGSTOP)
        elif kind in ("kill a rank", "stop a rank", "kill an agent", "stop an agent"):
            pid = self.pid_on_host(bed, "dsrun-worker" if "rank" in kind else "dsrun-agent")
            bed.on(self.host, "kill", f"-{number}", str(pid))
        elif kind == "kill sshd's child":
            bed.on(self.host, "pkill", "-KILL", "-f", "^sshd: .*@notty")
        elif kind == "cut a host":
            bed.fault("drop", self.host)
        elif kind == "freeze a host":
            bed.fault("freeze", self.host)
        elif kind == "fill a disk":
            self.struck = self.times("started")[0] + 0.4  # its rank does
            return
        self.struck = time.time()  # it has happened: the command for it has ended

    def wait_end(self, bed):
        """Returns when it was over, as the job's record has it; of a dsrun that cannot write one, as the hosts show."""
        over = None
        if self.fault in ("kill dsrun", "stop dsrun"):
            look = 0.0

            def empty():
                nonlocal look
                began = time.time()
                found = any(bed.processes(name) for name in bed.names)
                look = time.time() - began
                return not found
            if not wait_for(empty, PATIENCE):
                self.say("ranks outlive their dsrun")
            over = time.time() - look
            self.process.send_signal(signal.SIGCONT)
        if self.spare:
            if not wait_for(lambda: self.count("started") == 2 or self.process.poll() is not None, PATIENCE) or \
                    self.process.poll() is not None:
                self.say("it does not go on with the spare host")
            over = self.times("launch")[-1]
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
        if not wait_for(lambda: self.process.poll() is not None, PATIENCE):
            self.say(f"it does not end within {PATIENCE} s")
            self.process.kill()
            self.process.wait()
        return over or max(self.times("exit"), default=time.time())

    def check_time(self, over, metronome):
        """The cause is known in time, and what follows ends in time."""
        known = HEARTBEAT if self.fault in SILENT else STALL if self.fault == "stop a rank" else 0.0
        self.stood = metronome.stood_still(self.struck, over)
        self.took, self.limit = max(0.0, over - self.struck), known + GRACE + 2.0
        if self.took > self.limit + self.stood:
            self.say(f"over after {self.took:.2f} s, not {self.limit} s; the machine stood still for {self.stood:.2f} s")
        failing = self.times("failing")  # a dsrun that was stopped writes only when it goes on
        if known and failing and self.fault != "stop dsrun" and failing[0] - self.struck > known + 0.5 + self.stood:
            self.say(f"noticed after {failing[0] - self.struck:.2f} s, not {known} s")

    def check(self):
        code, sentence = FAULTS[self.fault]
        text = self.err.read_text(errors="replace")
        if self.process.returncode != (75 if self.spare else code):
            self.say(f"exit code {self.process.returncode}, not {code}")
        if sentence and not re.search(sentence.format(rank=self.rank, host=self.host), text):
            self.say("the cause is not named")
        if self.spare and not any(event["event"] == "launch" and f"node{HOSTS + 1}" in event["hosts"]
                                  for event in self.events()):
            self.say("the spare host is not used")

    def lines(self, bed, name, *command):
        ran = bed.on(name, *command)
        if ran.returncode:
            raise RuntimeError(f"{name}: {command[0]}: {ran.stderr.strip()}")
        return [line for line in ran.stdout.splitlines() if line.strip()]

    def files(self, bed, name):
        """What is in a host's own /tmp and /dev/shm, not what the bed shows there of this machine's; its cgroups."""
        found = set(self.lines(bed, name, "find", "/tmp", "/dev/shm", "-ignore_readdir_race", "-xdev", "-mindepth", "1"))
        cgroup = bed.base / "hosts" / name / "cgroup"
        if cgroup.exists():
            found |= {folder for folder, _, _ in os.walk(cgroup.read_text().strip())}
        return found

    def check_left(self, bed):
        if self.fault == "cut a host":
            bed.fault("heal", self.host)
        elif self.fault == "freeze a host":
            bed.fault("thaw", self.host)
        elif self.fault == "stop an agent":
            bed.on(self.host, "pkill", "-CONT", "dsrun-agent")

        def left():
            found = []
            for name in (*bed.names, "head"):
                found += [f"{name}: process {line}" for line in bed.processes(name).values()]
                found += [f"{name}: {path}" for path in self.files(bed, name) - self.before[name]]
                found += [f"{name}: {line}" for line in self.lines(
                    bed, name, "ss", "-Htn", "state", "established", "state", "fin-wait-1", "state", "fin-wait-2",
                    "state", "close-wait")]
            return found
        still = [None]

        def clean():
            still[0] = left()
            return not still[0]
        if not wait_for(clean, PATIENCE):
            self.say(f"left behind: {still[0]}")

    def go(self, bed, metronome):
        try:
            self.before = {name: self.files(bed, name) for name in (*bed.names, "head")}
            if not self.start(bed):
                self.say("it does not start")
                return self
            time.sleep(0.3 + self.dice.random() * 0.5)
            self.strike(bed)
            self.check_time(self.wait_end(bed), metronome)
            self.check()
            self.check_left(bed)
        except Exception as error:  # a trial that cannot be made has failed
            self.say(f"{type(error).__name__}: {error}")
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        return self


def job_cgroups():
    """Those of jobs that are over, beside the beds' own: of an agent that left its host's."""
    root = next((path for path in map(pathlib.Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
                 if (path / "cgroup.controllers").exists()), None)
    found = set()
    for path in root.glob("dsrun-[0-9]*") if root else []:
        try:
            found |= {path.name} if "populated 0" in (path / "cgroup.events").read_text() else set()
        except OSError:
            continue  # it has just gone
    return found


def main():
    before = job_cgroups()
    free, metronome = queue.Queue(), Metronome()
    raised = [beds.Hosts(HOSTS + 1, disk="1m") for _ in range(min(BEDS, TRIALS))]
    for bed in raised:
        free.put(bed)

    def one(number):
        bed = free.get()
        try:
            return Trial(number).go(bed, metronome)
        finally:
            free.put(bed)

    failures, took, nearest = 0, [], 0.0
    with concurrent.futures.ThreadPoolExecutor(len(raised)) as pool:
        for trial in pool.map(one, range(TRIALS)):
            took.append(trial.took)
            nearest = max(nearest, trial.took / trial.limit if trial.limit else 0.0)
            failures += bool(trial.wrong)
            name = f"trial {trial.number}: {trial.fault} on {trial.host}{' with a spare' if trial.spare else ''}"
            stood = f", {trial.stood:.1f} s of them at a standstill" if trial.stood else ""
            h.ok(not trial.wrong, f"{name}, over in {trial.took:.1f} s of {trial.limit:g} s{stood}",
                 "\n".join(trial.wrong) + "\n" + trial.err.read_text(errors="replace")[-1500:])
            shutil.rmtree(trial.run, ignore_errors=True)
    print(f"# {TRIALS} trials from seed {SEED} on {HOSTS} hosts, {failures} failures; longest {max(took):.1f} s, "
          f"the nearest to its limit took {100 * nearest:.0f}% of it")
    for bed in raised:
        bed.down()
    wait_for(lambda: not job_cgroups() - before, 5)  # others may run jobs here
    h.ok(not job_cgroups() - before, "no cgroup of a job is left", job_cgroups() - before)


main()
h.done()
