#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""codes - the exit codes of what never starts: a wrong command line, a wrong job, a host, this machine.

Which of them it is depends on the mistake, never on the command or on how hosts are reached.  The codes of
ranks are in processes.py, those of hosts that cannot be reached in ssh.py, slurm.py and join.py.
"""
import os
import resource
import signal
import subprocess

import harness as h

JOB = h.write_job(steps=4)
h.text_file()
JOBS = (["run", JOB], ["check", JOB], ["plan", JOB], ["tune", "--trials", "0", JOB])
ALL = (*JOBS, ["launch", "--", "true"], ["exec", "--", "true"], ["hosts"], ["hosts", "trust"])


def is_code(title, ran, code, words):
    h.ok(ran.returncode == code and words in ran.stderr, f"{title}: {code}, '{words}'", f"{ran.returncode}\n{ran.stderr}")


def via(command, *words):
    at = 2 if command[1:2] == ["trust"] else 1
    return [*command[:at], *words, *command[at:]]


def ways():
    """A way to reach hosts that is not there, or not told enough."""
    hosts = h.work() / "hosts"
    hosts.write_text("node1 slots=1\n")
    key = h.work() / "job.key"
    h.dsrun("join", "--make-key", "--join-key", key)
    for command in ALL:
        name = " ".join(map(str, command[:2] if command[1:2] == ["trust"] else command[:1]))
        is_code(name, h.dsrun(*via(command, "--via", "slurm")), 2, "not inside an allocation")
        is_code(name, h.dsrun(*via(command, "--via", "join", "-H", hosts)), 2, "'--via join' needs '--hostfile'")
        is_code(name, h.dsrun(*via(command, "--via", "join", "-H", hosts, "--join-key", key, "--join-listen", "x:0")), 2,
                "--join-listen")
    ran = h.dsrun("exec", "--via", "join", "-H", hosts, "--join-key", key, "--join-listen", "localhost:7", "--", "true")
    is_code("a name to listen at", ran, 2, "--join-listen: 'localhost:7' is no address")


def jobs():
    """A job is as wrong wherever it is to run."""
    hosts = h.work() / "hosts"
    for command in JOBS:
        for words in ([], ["--via", "local"], ["--via", "ssh", "-H", hosts], ["--via", "openssh", "-H", hosts]):
            ran = h.dsrun(*via(command, *words), "precision.matmul=fp8", "precision.compute=bf16", "model.hidden=24",
                          "model.heads=2")
            is_code(" ".join(map(str, [command[0], *words[:2]])), ran, 65, "precision.matmul")
            ran = h.dsrun(*via(command, *words), "parallel.expert=8")
            is_code(" ".join(map(str, [command[0], *words[:2]])), ran, 65, "divides experts, and 'model.arch' gpt2 has none")


def ssh_config():
    """What stands there of a host is of that host."""
    hosts = h.work() / "hosts"
    home = h.work() / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Match exec true\n")
    for command in (["run", "--run-dir", "config", JOB], ["launch", "--", "true"], ["exec", "--", "true"]):
        is_code(command[0], h.dsrun(*via(command, "--via", "ssh", "-H", hosts), HOME=str(home)), 69, "config:1")


def too_large():
    """What does not fit into a frame is refused before there is an agent."""
    files = []
    for k in range(5):
        (h.work() / f"{k}.env").write_text("".join(f"BIG_{k}_{i}={'x' * 30000}\n" for i in range(8)))
        files += ["--env-file", f"{k}.env"]
    for command, code in ((["run", "--run-dir", "large", JOB], 65), (["launch", "--", "true"], 2), (["exec", "--", "true"], 2)):
        ran = h.dsrun(*via(command, *files))
        is_code(command[0], ran, code, "do not fit in")
        h.ok("host" not in ran.stderr, f"{command[0]}: no host is blamed", ran.stderr)


def machine():
    """This machine lacks something: no host's fault either."""
    run = h.work() / "full"
    run.mkdir()

    def limited(what, most, *command):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(what, (most, most))
        return subprocess.run([h.DSRUN, *map(str, command)], preexec_fn=limit, capture_output=True, text=True, check=False,
                              cwd=h.work(), env=h.environment(), timeout=60)
    for command in (["run", "--run-dir", run, JOB], ["launch", "--run-dir", run, "--", "true"]):
        (run / "events.jsonl").write_text('{"event":"exit"}\n' * 2000)
        is_code(command[0], limited(resource.RLIMIT_FSIZE, 20000, *command), 1, "events.jsonl': cannot write: File too large")
    for command in (["run", "--run-dir", "few", JOB], ["launch", "--", "true"]):
        for most in range(6, 40):
            ran = limited(resource.RLIMIT_NOFILE, most, *command)
            if "host '" in ran.stderr:
                break
        is_code(f"{command[0]}, {most} descriptors", ran, 1, "Too many open files")


ways()
jobs()
if os.environ.get("ASAN_OPTIONS") is None:
    machine()
ssh_config()
too_large()
h.ok(not h.left(), "no process is left", h.left(0))
h.done()
