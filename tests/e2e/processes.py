#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""processes - dsrun, its agent and its ranks: exit codes, first failures, output, stops, and no trace left.

The ranks are fake_worker.c, which does what FAKE_<rank> (else FAKE) says; so every misfortune of a rank
can be had at will, and the launcher alone is under test.
"""
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import harness as h

FAKE = h.BUILD / "tests" / "e2e" / "fake_worker"
AGENT = h.BUILD / "libexec" / "dsrun" / "dsrun-agent"


def libexec(name="libexec", agent=True, worker=True):
    """A folder to start agents and ranks from."""
    folder = h.work() / name
    folder.mkdir(exist_ok=True)
    if agent:
        shutil.copy(AGENT, folder / "dsrun-agent")
    if worker:
        shutil.copy(FAKE, folder / "dsrun-worker")
    return folder


LIBEXEC = libexec()
JOB = h.write_job(steps=10)
_runs = 0


def args(*more, ranks=2, run=None):
    global _runs
    _runs += 1
    keys = [word for word in more if str(word).startswith("launch.")]
    options = [word for word in more if word not in keys]
    return ["--slots", ranks, "--run-dir", run or h.work() / f"run-{_runs}", *options, JOB, *keys]


def ranks(*more, n=2, run=None, timeout=60, **fake):
    return h.dsrun(*args(*more, ranks=n, run=run), timeout=timeout, DSRUN_LIBEXEC=str(LIBEXEC), **fake)


def last_run():
    return h.work() / f"run-{_runs}"


def log(rank, run=None):
    path = (run or last_run()) / "logs" / f"rank-{rank:05}.log"
    return path.read_bytes().decode(errors="replace")


def events(run=None):
    path = (run or last_run()) / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def nothing_left(name):
    still = h.left()
    h.ok(not still, f"{name}: nothing is left running", still)
    h.reap()


def begin(*more, n=2, run=None, **fake):
    """Start dsrun in the background; returns it once its ranks run."""
    process = subprocess.Popen([h.DSRUN, *map(str, args(*more, ranks=n, run=run))], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=h.work(),
                               env=h.environment(DSRUN_LIBEXEC=str(LIBEXEC), **fake))
    wait_for(lambda: "started" in [e["event"] for e in events(run)])
    return process


def stop_until_it_ends(process, number):
    """Ask again and again, as an impatient user would."""
    def ended():
        if process.poll() is None:
            process.send_signal(number)
            time.sleep(0.2)
        return process.poll() is not None
    wait_for(ended)


def wait_for(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def pids(word):
    return [pid for pid, line in h.processes().items() if word in line.split()[0]]


def finish(process, seconds=30):
    """(exit code, output) of a dsrun in the background; None when it did not end."""
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output.decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        return None, process.communicate()[0].decode(errors="replace")


# --- endings ------------------------------------------------------------------------------------------

def test_exit_codes():
    for name, fake, code in [
            ("all end with 0", dict(FAKE=""), 0),
            ("a rank ends with 3", dict(FAKE="wait", FAKE_1="exit:3"), 3),
            ("a rank ends with 255", dict(FAKE="wait", FAKE_0="exit:255"), 255),
            ("a rank is killed by SIGSEGV", dict(FAKE="wait", FAKE_1="kill:11"), 139),
            ("a rank is killed by SIGKILL", dict(FAKE="wait", FAKE_0="kill:9"), 137),
            ("ranks stop by themselves after a checkpoint", dict(FAKE="exit:75"), 75),
            ("one rank stops by itself, the other follows", dict(FAKE="wait", FAKE_0="exit:75"), 75),
            ("wrong data in a rank", dict(FAKE="wait", FAKE_1="exit:65"), 65),
    ]:
        ran = ranks(**fake)
        h.ok(ran.returncode == code, f"exit code: {name}", f"{ran.returncode}\n{ran.stdout}{ran.stderr}")
    nothing_left("exit codes")


def test_first_failure():
    ran = ranks(
        n=4, FAKE="wait", FAKE_2="err:all is fine;err:the disk is on fire;exit:7")
    text = ran.stderr
    h.ok(ran.returncode == 7 and re.search(r"rank 2 on \S+ ended with code 7", text),
         "first failure: rank and code are named", text)
    h.ok(text.count("the disk is on fire") == 1 and re.search(r"\[\S+ 2\] the disk is on fire", text),
         "first failure: its last lines are shown once, labelled", text)
    h.ok("3 other ranks ended because of it" in text, "first failure: victims are counted apart", text)
    failure = [e for e in events() if e["event"] == "failure"]
    h.ok(len(failure) == 1 and failure[0]["rank"] == 2 and failure[0]["code"] == 7, "first failure: one event",
         failure)
    ran = ranks(FAKE_0="exit:79", FAKE_1="sleep:300;err:it was me;exit:5")
    h.ok(ran.returncode == 5 and "rank 1 on" in ran.stderr and "it was me" in ran.stderr,
         "first failure: a victim that ends earlier is not blamed", ran.stderr)
    ran = ranks(FAKE="wait", FAKE_1="".join(f"err:line {i};" for i in range(100)) + "exit:1")
    h.ok("line 99" in ran.stderr and "line 80" in ran.stderr and "line 79" not in ran.stderr,
         "first failure: only the last lines are shown", ran.stderr)
    ran = ranks(FAKE="wait", FAKE_1="deaf", FAKE_0="exit:3")
    h.ok(ran.returncode == 3, "first failure: a rank that does not listen is killed", ran.stderr)
    nothing_left("first failure")


def test_start_failures():
    folder = libexec("no-worker", worker=False)
    ran = h.dsrun(*args(), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 127 and re.search(r"cannot start '.*/dsrun-worker': No such file", ran.stdout + ran.stderr),
         "a missing worker is named", ran.stdout + ran.stderr)
    folder = libexec("no-agent", agent=False)
    ran = h.dsrun(*args(), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 69 and
         re.search(r"cannot start '.*/dsrun-agent': No such file.*, install all of dsrun or .* DSRUN_LIBEXEC", ran.stderr),
         "a missing agent is named, and what to do", ran.stderr)
    ran = h.dsrun("bench", "gemm", DSRUN_LIBEXEC=str(libexec("no-bench", worker=False)))
    h.ok(ran.returncode == 1 and re.search(r"cannot start '.*/dsrun-worker': No such file.* DSRUN_LIBEXEC", ran.stderr),
         "bench: a missing worker is named, and what to do", ran.stderr)
    folder = libexec("bad-agent")
    (folder / "dsrun-agent").write_text("#!/bin/sh\necho 'Welcome to this host'\nexit 3\n")
    ran = h.dsrun(*args(), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 69 and "was lost" in ran.stderr, "an agent that ends at once is a lost host", ran.stderr)
    (folder / "dsrun-agent").write_text("#!/bin/sh\nexec cat\n")
    ran = h.dsrun(*args(), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 69, "an agent that echoes is refused", ran.stderr)
    (folder / "dsrun-agent").write_text("#!/bin/sh\nyes 'I am a login banner' | head -c 200000; sleep 60\n")
    ran = h.dsrun(*args(), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 69 and "no greeting" in ran.stderr, "an agent that never greets is refused", ran.stderr)
    (folder / "dsrun-agent").write_text("#!/bin/sh\nexec sleep 60\n")
    ran = h.dsrun(*args("--start-timeout", 1), DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 124 and "0 of 2 ranks" in ran.stderr, "a start that takes too long is given up", ran.stderr)
    run = subprocess.run([AGENT], input=b"", capture_output=True, check=False)
    h.ok(run.returncode == 69 and run.stdout == b"", "an agent without a launcher ends", run)
    run = subprocess.run([AGENT, "--help"], input=b"", capture_output=True, check=False)
    h.ok(run.returncode == 2, "an agent is not started by hand", run)
    nothing_left("start failures")


def test_kills():
    """SIGKILL to each program of a running job: an honest code, and nothing stays."""
    for victim, fake in [("bin/dsrun", "wait"), ("dsrun-agent", "wait"), ("dsrun-agent", "deaf"), ("dsrun-worker", "wait"),
                         ("bin/dsrun", "deaf"), ("bin/dsrun", "orphan;deaf")]:
        process = begin(FAKE=fake)
        if "orphan" in fake:
            wait_for(lambda: len(h.processes()) >= 6)
        for pid in pids(victim)[:1]:
            os.kill(pid, signal.SIGKILL)
        code, output = finish(process)
        want = {"bin/dsrun": -9, "dsrun-agent": 70, "dsrun-worker": 137}[victim]
        h.ok(code == want, f"kill -9 {victim} of '{fake}' ranks: exit code {want}", f"{code}\n{output}")
        if victim == "dsrun-agent":
            h.ok("was lost: its agent was killed by signal 9" in output, "a killed agent is named", output)
        nothing_left(f"kill -9 {victim} of '{fake}' ranks")
    process = begin(FAKE="deaf")
    for pid in pids("bin/dsrun") + pids("dsrun-agent"):
        os.kill(pid, signal.SIGKILL)
    finish(process)
    nothing_left("kill -9 of dsrun and its agent together")


def test_orphans():
    ran = ranks(FAKE="orphan;exit:0")
    h.ok(ran.returncode == 0, "ranks that leave daemons behind", ran.stderr)
    nothing_left("daemons of ranks")


# --- stopping -------------------------------------------------------------------------------------------

def test_stop():
    for name, number in [("INT", signal.SIGINT), ("TERM", signal.SIGTERM), ("HUP", signal.SIGHUP)]:
        process = begin(FAKE="wait")
        process.send_signal(number)
        code, output = finish(process)
        h.ok(code == 75, f"stop by {name}: every rank saves, 75", f"{code}\n{output}")
    for name, number, want in [("INT", signal.SIGINT, 130), ("TERM", signal.SIGTERM, 143)]:
        process = begin(FAKE="deaf")
        stop_until_it_ends(process, number)
        code, output = finish(process)
        h.ok(code == want, f"stop by {name} twice: killed, {want}", f"{code}\n{output}")
    process = begin(FAKE="sleep:300;wait")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 75, "a stop that is told twice at once is one stop", f"{code}\n{output}")
    process = begin("--grace", "0.2", FAKE="deaf")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 143, "stop: after the grace ranks are killed, 143", f"{code}\n{output}")
    process = begin(FAKE="wait")
    os.kill(pids("dsrun-worker")[0], signal.SIGTERM)  # a fake rank dies of it: a failure, not a stop
    code, output = finish(process)
    h.ok(code == 143, "SIGTERM that kills a rank is its failure", f"{code}\n{output}")
    process = begin(FAKE="wait")
    os.kill(pids("dsrun-agent")[0], signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 75, "stop by SIGTERM to the agent", f"{code}\n{output}")
    process = begin(FAKE="wait", FAKE_1="sleep:400;exit:4")
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 4, "a failure while stopping is told", f"{code}\n{output}")
    process = begin(FAKE="deaf")
    agent = pids("dsrun-agent")[0]
    os.kill(agent, signal.SIGSTOP)
    stop_until_it_ends(process, signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 143, "a frozen agent is dropped", f"{code}\n{output}")
    nothing_left("stops")


def test_silence():
    """What stands still is named for what it is, whoever it is."""
    process = begin("--heartbeat", "2", FAKE="train:50")
    os.kill(pids("dsrun-agent")[0], signal.SIGSTOP)
    code, output = finish(process)
    h.ok(code == 70 and "was lost: it is frozen" in output, "a stopped agent is lost after the heartbeat limit",
         f"{code}\n{output}")
    nothing_left("a stopped agent")
    process = begin("--heartbeat", "2", FAKE="deaf")
    process.send_signal(signal.SIGSTOP)
    h.ok(wait_for(lambda: not pids("dsrun-worker") and not pids("dsrun-agent")),
         "ranks do not outlive the lease of a stopped dsrun", h.processes())
    process.send_signal(signal.SIGCONT)
    code, output = finish(process)
    h.ok(code == 124 and "dsrun itself was stopped" in output, "and it says that it was stopped itself",
         f"{code}\n{output}")
    nothing_left("a stopped dsrun")
    process = begin("launch.hang=2", FAKE="train:50")
    wait_for(lambda: len(pids("dsrun-worker")) == 2)
    time.sleep(0.5)
    victim = pids("dsrun-worker")[0]
    rank = dict(item.split("=", 1) for item in open(f"/proc/{victim}/environ").read().split("\0") if "=" in item)["RANK"]
    for pid in pids("dsrun-worker"):  # the others would wait for it
        os.kill(pid, signal.SIGSTOP)
    code, output = finish(process)
    h.ok(code == 124 and "hang: no rank has made a step" in output and "does not answer" in output,
         "ranks that make no step are a hang, 124", f"{code} rank {rank}\n{output}")
    nothing_left("a hang")
    process = begin("--heartbeat", "1", n=1, FAKE="spam:4;train:50")  # nobody reads its console
    rank_log = last_run() / "logs/rank-00000.log"
    wait_for(lambda: rank_log.exists() and rank_log.stat().st_size > 100000)
    time.sleep(2.5)
    h.ok(process.poll() is None and pids("dsrun-worker"), "a console that nobody reads is nobody's silence",
         h.processes())
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: process.poll() is not None)
    h.ok(process.poll() == 75, "and the job still stops", process.poll())
    process.stdout.close()
    nothing_left("silence")


def memory_group():
    """A fresh cgroup that allows 128 MiB, or why there is none."""
    for root, limit, value in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "128M"),
                               ("/sys/fs/cgroup", "memory.max", "128M")]:
        group = f"{root}/dsrun-test-{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            with open(f"{group}/{limit}", "w") as file:
                file.write(value)
            return group, None
        except OSError as error:
            os.rmdir(group)
            why = error
        return None, f"no memory controller: {why}"
    return None, "no cgroup can be made"


def test_memory():
    group, why = memory_group()
    if group is None or h.SANITIZED:
        h.skip("a kill for want of memory", why or "sanitizers take memory of their own")
        return

    def enter():
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")
    try:
        ran = subprocess.run([h.DSRUN, *map(str, args("--restarts", 2))], capture_output=True, text=True, cwd=h.work(), timeout=60,
                             env=h.environment(DSRUN_LIBEXEC=str(LIBEXEC), FAKE="wait", FAKE_1="sleep:300;eat:400"),
                             preexec_fn=enter, check=False)
        h.ok(ran.returncode == 137 and re.search(r"rank 1 on \S+ was killed by signal 9 .*ran out of memory", ran.stderr),
             "a kill for want of memory is named as one, by the cgroup", f"{ran.returncode}\n{ran.stderr}")
        h.ok("'oom' is not in launch.restart_on" in ran.stderr and "restart" not in [e["event"] for e in events()],
             "and not started again, unless the user wants it", ran.stderr)
        nothing_left("want of memory")
    finally:
        wait_for(lambda: not open(f"{group}/cgroup.procs").read().strip())
        os.rmdir(group)


# --- output -------------------------------------------------------------------------------------------------

def test_output():
    ran = ranks(FAKE_0=r"out:one\e[2J\rtwo;err:three;env:RANK;env:WORLD_SIZE;env:LOCAL_RANK;env:LOCAL_WORLD_SIZE;env:NODE_RANK",
                FAKE_1="out:not for the console;env:DSRUN_CORES")
    h.ok(re.search(r"\[\S+ 0\] one\\x1b\[2J\\x0dtwo\n", ran.stdout), "rank 0 is shown, control characters escaped",
         ran.stdout)
    h.ok(re.search(r"\[\S+ 0\] three\n", ran.stderr), "rank 0's stderr goes to stderr", ran.stderr)
    h.ok("not for the console" not in ran.stdout + ran.stderr, "other ranks are not shown", ran.stdout)
    h.ok(sorted(log(0).split("\n")) == sorted("one\x1b[2J\rtwo\nthree\n0\n2\n0\n2\n0\n".split("\n")),
         "the log has every byte", repr(log(0)))
    h.ok(log(1).startswith("not for the console\n") and re.fullmatch(r"[0-9,-]+", log(1).splitlines()[1]),
         "each rank has its log, and its cores", log(1))
    ran = ranks("--env", "COLOUR=blue", FAKE="env:COLOUR")
    h.ok(log(1) == "blue\n", "--env reaches the ranks", log(1))
    ran = ranks("-v", "launch.env={TOKEN: hush}", FAKE_0="env:TOKEN", FAKE_1="")
    kept = [path.name for path in last_run().rglob("*") if path.is_file() and "hush" in path.read_text(errors="replace")]
    h.ok(ran.returncode == 0 and kept == ["rank-00000.log"] and "hush" not in ran.stderr and
         "it had TOKEN\n" in (last_run() / "job.yaml").read_text(),
         "what launch.env has reaches ranks, and of dsrun's own files and messages none", f"{kept}\n{ran.stderr}")
    ran = ranks(n=1, FAKE="long:300")
    shown = [line for line in ran.stdout.splitlines() if "yyy" in line]
    h.ok(len(shown) == 5 and max(map(len, shown)) < 66000, "a line of 300 KiB is shown in bounded pieces",
         [len(line) for line in shown])
    h.ok(len(log(0)) == 300 * 1024 + 1, "a line of 300 KiB is whole in the log", len(log(0)))
    ran = ranks("-q", FAKE="out:quiet?;metrics:0-3")
    h.ok(ran.stdout == "" and ran.stderr == "", "-q prints nothing when all is well", ran.stdout + ran.stderr)
    ran = ranks("-q", FAKE="wait", FAKE_0="err:why;exit:2")
    h.ok(ran.returncode == 2 and "why" in ran.stderr, "-q shows why it failed", ran.stderr)
    ran = ranks("--json", FAKE_0="out:hm;metrics:0-3;metric:{\"step\":3,\"valid_loss\":1.5}", FAKE_1="")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    h.ok([x["step"] for x in lines if "loss" in x] == [0, 1, 2] and lines[-1] == {**lines[-1], "event": "exit", "code": 0},
         "--json: metrics and events, one object a line", ran.stdout)
    nothing_left("output")


def test_bulk():
    process = begin(n=2, FAKE_0="wait", FAKE_1="spam:100;sleep:200")
    size = lambda: (last_run() / "logs/rank-00001.log").stat().st_size if (last_run() / "logs/rank-00001.log").exists() else 0
    wait_for(lambda: size() == 100 << 20 or process.poll() is not None, 60)
    h.ok(size() == 100 << 20, "100 MiB of output are in the log", size())
    peak = {}
    for pid, line in h.processes().items():
        match = re.search(r"VmHWM:\s*(\d+)", open(f"/proc/{pid}/status").read())
        peak[line.split()[0]] = int(match.group(1))
    h.ok(h.SANITIZED or (len(peak) >= 2 and max(peak.values()) < 64 << 10), "100 MiB of output take little memory", peak)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    h.ok(code == 75, "a job with much output is stopped", f"{code}\n{output[-500:]}")
    (last_run() / "logs/rank-00001.log").unlink()

    process = begin(n=1, FAKE="spam:4;wait")  # nobody reads its console
    rank_log = last_run() / "logs/rank-00000.log"
    wait_for(lambda: rank_log.exists() and rank_log.stat().st_size > 100000)
    time.sleep(0.3)
    stalled = rank_log.stat().st_size
    h.ok(stalled < 4 << 20, "a console that nobody reads holds the rank back", stalled)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: process.poll() is not None)
    h.ok(process.poll() == 75, "and the job is stopped all the same", process.poll())
    process.stdout.close()
    nothing_left("bulk")


def test_frames():
    ran = ranks(FAKE="wait", FAKE_1="garbage;sleep:5000")
    h.ok(ran.returncode == 137 and "dsrun-agent: " in ran.stderr, "a rank that sends no frames is killed, and told why",
         ran.stderr)
    for name, fake in [("no JSON", "metric:hello"), ("no object", "metric:[1]"), ("two lines", "metric:{\\n}"),
                       ("an event that is no JSON", "event:{"), ("a control character", "event:{\"a\":\"\x01\"}")]:
        ran = ranks(FAKE="wait", FAKE_0=fake + ";wait")
        h.ok(ran.returncode == 1 and "error: rank 0: " in ran.stderr, f"a record with {name} ends the job", ran.stderr)
    nothing_left("frames")


# --- files ------------------------------------------------------------------------------------------------------

def test_metrics():
    run = h.work() / "metrics"
    ranks(n=1, run=run, FAKE='event:{"event":"resumed","step":0};metrics:0-10;metric:{"step":5,"valid_loss":2.5};'
          'metric:{"step":10,"valid_loss":2.0};flush')
    h.ok([s["step"] for s in steps(run)] == [*range(10), 5, 10], "metrics.jsonl: every line", steps(run))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step":10,"lo')  # a crash
    ranks(n=1, run=run, FAKE='event:{"event":"resumed","step":5};metrics:5-12;flush')
    h.ok(sorted(s["step"] for s in steps(run) if "loss" in s) == [*range(12)] and
         [s["step"] for s in steps(run) if "valid_loss" in s] == [5], "metrics.jsonl: each step once after a resume",
         (run / "metrics.jsonl").read_text())
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    h.ok(rows[0] == "step,loss,grad_norm,lr,tokens,tokens_per_s,step_ms,mfu,skipped,time,valid_loss".split(",") and
         [row[0] for row in rows[1:]] == [str(s["step"]) for s in steps(run)] and
         all(len(row) == 11 for row in rows), "metrics.csv: the same lines", rows)
    h.ok(float(rows[3][1]) == steps(run)[2]["loss"], "metrics.csv: numbers keep their value", rows[3])
    ranks(n=1, run=run, FAKE='event:{"event":"resumed","step":0};metrics:0-2')
    h.ok([s["step"] for s in steps(run)] == [0, 1], "metrics.jsonl: a new run starts empty", steps(run))
    shutil.rmtree(run)
    run.mkdir()
    (run / "metrics.jsonl").symlink_to(h.work() / "elsewhere")
    ran = ranks(n=1, run=run, FAKE="metrics:0-2")
    h.ok(ran.returncode == 1 and "metrics.jsonl" in ran.stderr and not (h.work() / "elsewhere").exists(),
         "metrics.jsonl: a symbolic link is not followed", ran.stderr)


def limited():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_full_disk():
    ran = subprocess.run([h.DSRUN, *map(str, args())], capture_output=True, text=True, cwd=h.work(), timeout=60,
                         env=h.environment(DSRUN_LIBEXEC=str(LIBEXEC), FAKE="wait", FAKE_0="metrics:0-100;wait"),
                         preexec_fn=limited, check=False)
    h.ok(ran.returncode == 1 and "metrics.jsonl" in ran.stderr, "a disk that is full ends the job with one sentence",
         f"{ran.returncode} {ran.stderr}")
    nothing_left("full disk")


def test_lock():
    run = h.work() / "locked"
    process = begin(run=run, FAKE="wait")
    ran = ranks(run=run, FAKE="")
    h.ok(ran.returncode == 1 and f"process {process.pid}" in ran.stderr, "a run directory in use is refused", ran.stderr)
    process.kill()
    process.wait()
    process.stdout.close()
    ran = ranks(run=run, FAKE="")
    h.ok(ran.returncode == 0, "and free once its dsrun was killed", ran.stderr)
    nothing_left("lock")


def test_ps():
    """Jobs of this user, by number and by name; files that were left over are no jobs."""
    state = h.work() / "state"
    state.mkdir(exist_ok=True)
    where = dict(XDG_RUNTIME_DIR=str(state))
    ps = lambda: [json.loads(line) for line in h.dsrun("ps", "--json", **where).stdout.splitlines()]
    h.ok(ps() == [] and h.dsrun("ps", **where).stdout == "", "ps: no job, no line")
    process = begin(FAKE="train:50", **where)
    wait_for(lambda: ps() and ps()[0]["step"] > 0)
    job = ps()
    h.ok(len(job) == 1 and job[0] == {**job[0], "pid": process.pid, "name": "tiny", "state": "running", "hosts": 1,
                                      "ranks": 2, "steps": 10, "run_dir": str(last_run())} and job[0]["step"] > 0,
         "ps --json: name, state, hosts, ranks, step, run directory", job)
    table = h.dsrun("ps", **where).stdout.splitlines()
    h.ok(len(table) == 2 and table[1].split()[:3] == [str(process.pid), "tiny", "running"] and
         str(last_run()) in table[1], "ps: a table", table)
    folder = state / "dsrun" / "jobs"
    h.ok((folder.stat().st_mode & 0o777, (folder / str(process.pid)).stat().st_mode & 0o777) == (0o700, 0o600),
         "nobody else may look", oct(folder.stat().st_mode))
    ran = h.dsrun("kill", "nobody", **where)
    h.ok(ran.returncode == 2 and "no job 'nobody'" in ran.stderr, "kill: a job that is not there", ran.stderr)
    second = begin(FAKE="train:50", **where)
    ran = h.dsrun("kill", "tiny", **where)
    h.ok(ran.returncode == 2 and "2 jobs are named 'tiny'" in ran.stderr, "kill: a name that two have", ran.stderr)
    ran = h.dsrun("kill", str(second.pid), **where)
    h.ok(ran.returncode == 0 and finish(second)[0] == 75, "kill by number: saved, 75", ran.stderr)
    ran = h.dsrun("kill", "tiny", **where)
    h.ok(ran.returncode == 0 and finish(process)[0] == 75 and ps() == [], "kill by name; then there is no job")
    process = begin(FAKE="wait", **where)
    process.kill()
    finish(process)
    (folder / "1").write_text('{"pid":1,"name":"tiny"}\n')
    ran = h.dsrun("kill", "1", **where)
    h.ok(ran.returncode == 2 and ps() == [] and not any(folder.iterdir()),
         "what a killed dsrun or a stranger left is no job, and removed", ran.stderr)
    folder.chmod(0o755)
    ran = h.dsrun("ps", **where)
    h.ok(ran.returncode == 1 and "closed to others" in ran.stderr, "a folder that others may enter is refused", ran.stderr)
    ran = ranks(FAKE="", **where)
    h.ok(ran.returncode == 0 and "will not list this job" in ran.stderr, "and a job says that it is not listed", ran.stderr)
    nothing_left("ps")


# --- restarts -----------------------------------------------------------------------------------------------------

def test_restarts():
    once = h.work() / "once"
    ran = ranks("--restarts", 2, FAKE=f"first:{once}-0;metrics:0-3;exit:9", FAKE_1="")
    names = [e["event"] for e in events()]
    h.ok(ran.returncode == 0 and names.count("launch") == 2 and names.count("restart") == 1 and
         names.count("failure") == 1, "a job that fails once is started again", f"{ran.stderr}\n{names}")
    h.ok("starting again in 1 s" in ran.stderr, "the restart is announced", ran.stderr)
    ran = ranks("--restarts", 5, FAKE="metrics:0-3;exit:9")
    h.ok(ran.returncode == 9 and "failed at the same step twice" in ran.stderr, "the same step twice ends it", ran.stderr)
    for code in (2, 65):
        ran = ranks("--restarts", 5, FAKE=f"exit:{code}")
        h.ok(ran.returncode == code and "restart" not in [e["event"] for e in events()] and
             "not started again: 'input' is not in launch.restart_on" in ran.stderr, f"code {code} is not started again", ran.stderr)
    ran = ranks("--restarts", 5, "--restart-on", "host-lost,comm", FAKE="exit:9")
    h.ok(ran.returncode == 9 and "'rank' is not in launch.restart_on" in ran.stderr and
         [e["class"] for e in events() if e["event"] == "failure"] == ["rank"], "only after what the user wants it for", ran.stderr)
    ran = ranks("--restarts", 5, "--restart-on", "comm", "--restart-backoff", 0.25,
                FAKE=f"first:{h.work() / 'apart'}-0;comm:1;exit:1", FAKE_1="")
    h.ok(ran.returncode == 0 and "ended with code 1: a collective failed" in ran.stderr and
         "starting again in 0.25 s" in ran.stderr, "a collective that failed is a cause of its own", ran.stderr)
    process = begin("--restarts", "5", FAKE="sleep:300;exit:9")
    wait_for(lambda: "restart" in [e["event"] for e in events()])
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    h.ok(code == 130, "a stop between attempts ends it", f"{code}\n{output}")
    nothing_left("restarts")


# --- hosts --------------------------------------------------------------------------------------------------------------

def test_hosts():
    hosts = h.work() / "hosts"
    for name, text, more, code, want in [
            ("localhost", "localhost slots=2\n", [], 0, ""),
            ("this host by name", f"hosts: [{{name: {os.uname().nodename}, slots: 4}}]\n", [], 0, ""),
            ("another host", "node1 slots=2\n", ["--via", "local"], 69, "host 'node1' is not this machine"),
            ("a host left out", "localhost slots=2\nnode1 slots=2\n", ["-e", "node1"], 0, ""),
            ("a host twice", "localhost\nlocalhost\n", [], 65, "hosts:2:1: host 'localhost' is named twice"),
            ("no slots", "localhost slots=0\n", [], 65, "hosts:1:11: slots must be a number from 1"),
            ("an unknown host", "localhost\n", ["-i", "mars"], 2, "unknown host 'mars'"),
    ]:
        hosts.write_text(text)
        ran = h.dsrun("-H", hosts, "--run-dir", h.work() / "hosts-run", *more, JOB, cwd=h.work(),
                      DSRUN_LIBEXEC=str(LIBEXEC), FAKE="")
        h.ok(ran.returncode == code and want in ran.stderr, f"hostfile with {name}", f"{ran.returncode} {ran.stderr}")
    ran = h.dsrun("-H", h.work() / "nowhere", JOB)
    h.ok(ran.returncode == 2 and "nowhere" in ran.stderr, "a hostfile that is missing", ran.stderr)
    ran = h.dsrun("--dry-run", "--slots", 2, "--run-dir", h.work() / "dry", JOB)
    h.ok(ran.returncode == 0 and re.search(r"rank 1  host \S+  slot 1  cores ", ran.stdout) and
         not (h.work() / "dry").exists(), "--dry-run prints the placement and touches nothing", ran.stdout)


# --- a terminal -------------------------------------------------------------------------------------------------------------

def on_terminal(columns, **fake):
    """Run on a pseudo terminal of that width; returns (code, bytes)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(h.environment(DSRUN_LIBEXEC=str(LIBEXEC), TERM="xterm", **fake))
        os.chdir(h.work())
        os.execv(h.DSRUN, [h.DSRUN, *map(str, args())])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    output = b""
    while True:
        try:
            more = os.read(fd, 65536)
        except OSError:
            break
        if not more:
            break
        output += more
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode(errors="replace")


def test_terminal():
    fake = "sleep:200;metrics:0-3;sleep:100;metrics:3-6;metric:{\"step\":6,\"valid_loss\":2.5};" \
           "event:{\"event\":\"checkpoint\",\"step\":6};sleep:100;metrics:6-10"
    for columns in (40, 80, 200):
        code, output = on_terminal(columns, FAKE_0=fake, FAKE_1="")
        live = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part) for part in re.split(r"\r\x1b\[K", output)]
        live = [part.split("\n")[0].rstrip("\r") for part in live if part.startswith("step ") and "valid" not in part]
        h.ok(code == 0 and len(live) >= 3 and max(map(len, live)) < columns, f"terminal of {columns}: a live line that fits",
             f"{code}\n{output!r}")
        h.ok("step 6/10  valid loss 2.5000\r\n" in output and "step 6/10  checkpoint saved\r\n" in output,
             f"terminal of {columns}: permanent lines", repr(output))
    h.ok("step 10/10" in live[-1], "terminal: the last step is shown", live)
    nothing_left("terminal")


shared = h.shared_memory()
chosen = sys.argv[1:] or [name for name in globals() if name.startswith("test_")]
for chosen_name in chosen:
    globals()[chosen_name]()
h.ok(h.shared_memory() <= shared, "nothing is left in /dev/shm", h.shared_memory() - shared)
h.done()
