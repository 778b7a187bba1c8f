#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""valgrind - whole jobs with the agent, the workers or dsrun itself under memcheck.

An invalid access, a use of what was never written, a block that is left, and a descriptor that a process
opened and still has at its end: each is a failure.  The programs are those of the
build; a script of their name in another libexec folder starts them under valgrind.
"""
import os
import re
import shutil
import signal
import subprocess
import time

import harness as h

AGENT = h.BUILD / "libexec" / "dsrun" / "dsrun-agent"
WORKER = h.BUILD / "libexec" / "dsrun" / "dsrun-worker"
FAKE = h.BUILD / "tests" / "e2e" / "fake_worker"
MEMCHECK = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--track-fds=yes"]
ALL, LOST = "all", "definite,indirect,possible"  # OpenMP's threads keep a few blocks to the end
LIMIT = 300
_jobs = 0


def memcheck(logs, kinds=ALL):
    return [*MEMCHECK, f"--show-leak-kinds={kinds}", f"--errors-for-leak-kinds={kinds}", f"--log-file={logs}/%p"]


def log_folder():
    global _jobs
    _jobs += 1
    folder = h.work() / f"logs-{_jobs}"
    folder.mkdir()
    return folder


def libexec(logs, worker=WORKER, watch_worker=False):
    """A folder to start agents from, under memcheck; their ranks run `worker`, which may be watched as well."""
    folder = logs / "libexec"
    (folder / "real").mkdir(parents=True)  # an agent looks for the worker beside itself
    shutil.copy(AGENT, folder / "real" / "dsrun-agent")
    start_watched(logs, folder / "dsrun-agent", folder / "real" / "dsrun-agent")
    if watch_worker:
        start_watched(logs, folder / "real" / "dsrun-worker", worker, LOST)
    else:
        shutil.copy(worker, folder / "real" / "dsrun-worker")
    return folder


def start_watched(logs, script, program, kinds=ALL):
    script.write_text(f"#!/bin/sh\nexec {' '.join(memcheck(logs, kinds))} {program} \"$@\"\n")
    script.chmod(0o755)


def complaints(logs):
    """What memcheck said, less descriptors that a process was given; and how many processes came to their end.

    Memcheck of old knows no pidfd_open(2), and says so; dsrun does without.
    """
    found, ended = [], 0
    for log in sorted(path for path in logs.iterdir() if path.is_file()):
        text = re.sub(r"(?m)^==\d+== ?", "", log.read_text(errors="replace"))
        ended += "FILE DESCRIPTORS" in text
        text = re.sub(r"--\d+-- WARNING: unhandled amd64-linux syscall: 434\n(?:--\d+-- .*\n?)*", "", text)
        text = re.sub(r"(?m)^FILE DESCRIPTORS: .*$", "", text)
        text = re.sub(r"(?m)^Open (?:AF_\w+ socket|file descriptor) \d+:.*\n\s+<inherited from parent>$", "", text)
        if text.strip():
            found.append(f"{log.name}: {text.strip()}")
    return found, ended


def clean(name, logs, processes):
    found, ended = complaints(logs)
    h.ok(not found, f"{name}: memcheck has nothing to say", "\n".join(found))
    h.ok(ended >= processes, f"{name}: {processes} watched came to their end", f"{ended} did")


def job_args(ranks, *more):
    return ["--slots", ranks, "--run-dir", h.work() / f"run-{_jobs}", "--heartbeat", 60, *more]


def gate():
    """Seeded defects: blocks that nobody frees, a descriptor that nobody closes."""
    logs = log_folder()
    env = h.environment(FAKE="eat:1")
    ran = subprocess.run([*memcheck(logs), FAKE], env=env, capture_output=True, timeout=LIMIT, check=False)
    h.ok(ran.returncode == 99 and any("lost" in text for text in complaints(logs)[0]), "a lost block is noticed", ran)
    logs = log_folder()
    subprocess.run([*memcheck(logs), "sh", "-c", "exec 7</dev/null; exit 0"], timeout=LIMIT, check=False)
    h.ok(any("Open file descriptor 7" in text for text in complaints(logs)[0]), "an open descriptor is noticed")


def fake_job(name, code, ranks=2, **fake):
    """The agent through a job of fake ranks."""
    logs = log_folder()
    ran = h.dsrun(*job_args(ranks), h.write_job(), DSRUN_LIBEXEC=str(libexec(logs, worker=FAKE)), timeout=LIMIT, **fake)
    h.ok(ran.returncode == code, f"{name}: exit {code}", f"{ran.returncode}\n{ran.stderr}")
    clean(name, logs, 1)


def stopped_job():
    logs = log_folder()
    run = h.work() / f"run-{_jobs}"
    job = h.start(*job_args(2), h.write_job(), DSRUN_LIBEXEC=str(libexec(logs, worker=FAKE)), FAKE="train:20")
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and not ((run / "events.jsonl").exists() and
                                          '"started"' in (run / "events.jsonl").read_text()):
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    h.ok(job.wait(LIMIT) == 75, "a stop: exit 75", job.returncode)
    clean("a stop", logs, 1)


def program():
    """A program without a link, which is told where the others are; and one that is not there."""
    for name, words, code in (("launch", ["sh", "-c", "echo $RANK of $WORLD_SIZE at $MASTER_PORT"], 0),
                              ("launch of nothing", ["no-such-program"], 127)):
        logs = log_folder()
        ran = h.dsrun("launch", "--slots", 2, "--", *words, DSRUN_LIBEXEC=str(libexec(logs)), timeout=LIMIT)
        h.ok(ran.returncode == code, f"{name}: exit {code}", f"{ran.returncode}\n{ran.stderr}")
        clean(name, logs, 1)


def by_hand():
    """The agent as a remote host starts it, behind its guard, with a line that ends or says nonsense."""
    for name, said in (("a line that ends", b""), ("a line of nonsense", os.urandom(4096))):
        logs = log_folder()
        ran = subprocess.run([*memcheck(logs), AGENT], input=said, env=h.environment(), capture_output=True,
                             timeout=LIMIT, check=False)
        h.ok(ran.returncode in (69, 70), f"{name}: the agent gives up", f"{ran.returncode}\n{ran.stderr}")
        clean(name, logs, 2)


def training():
    """Agent and workers; then dsrun itself with everything below it as built."""
    logs = log_folder()
    job = h.write_job(steps=3, every=2, eval=2)
    ran = h.dsrun(*job_args(2), job, DSRUN_LIBEXEC=str(libexec(logs, watch_worker=True)), timeout=LIMIT)
    h.ok(ran.returncode == 0, "training: exit 0", f"{ran.returncode}\n{ran.stderr}")
    clean("training, agent and 2 workers", logs, 3)
    logs = log_folder()
    ran = subprocess.run([*memcheck(logs), h.DSRUN, *map(str, job_args(2)), job], env=h.environment(), cwd=h.work(),
                         capture_output=True, text=True, timeout=LIMIT, check=False)
    h.ok(ran.returncode == 0, "training, dsrun watched: exit 0", f"{ran.returncode}\n{ran.stderr}")
    clean("training, dsrun", logs, 1)


def main():
    if not shutil.which("valgrind"):
        h.skip("valgrind", "no program 'valgrind': tools/deps valgrind")
        h.done()
    gate()
    fake_job("a job", 0, FAKE="out:hello;err:world;metrics:0-5;flush")
    fake_job("much output", 0, FAKE="spam:4;long:512")
    fake_job("a rank that fails", 3, FAKE="wait", FAKE_1="err:no more;exit:3")
    fake_job("a rank that is killed", 137, FAKE="wait", FAKE_1="kill:9")
    fake_job("a rank that talks nonsense", 137, FAKE="wait", FAKE_1="garbage;wait")
    fake_job("an orphan", 0, FAKE="orphan")
    stopped_job()
    program()
    by_hand()
    training()


main()
h.done()
