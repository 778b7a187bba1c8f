#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""kill_resume - kill -9 any process of the job at any moment: the run goes on to the same bits.

One undisturbed run to the last step; then a run in which a random process (dsrun, agent, a worker) is
killed again and again, started anew each time until it is done.  The texts of loss and gradient norm
and the exported weights must be byte-equal, and nothing may be left running or in shared memory.  The same
again with everything in shards (ZeRO stage 3) and with dropout.
"""
import functools
import json
import os
import random
import signal
import subprocess
import time

import harness as h

STEPS, KILLS = 40, 6 if h.SANITIZED else 20
SEED = int(os.environ.get("KILL_SEED", "1"))


def job():
    return h.write_job(steps=STEPS, every=2, eval=10, keep=3)


def command(run, stage):
    return ("--slots", 2, "--run-dir", run, job(), f"zero.stage={stage}",
            f"model.dropout={0.1 if stage == 3 else 0}")


def run_to_end(name, stage=0):
    run = h.work() / name
    ran = h.dsrun(*command(run, stage))
    h.ok(ran.returncode == 0, f"{name}: ends with 0", ran.stdout + ran.stderr)
    return run


def kill_one(chance):
    """Kill one random process of the job; returns its command line, or None when there is none."""
    alive = sorted(h.processes().items())
    if not alive:
        return None
    pid, line = chance.choice(alive)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return line.split()[0]


def saved_steps(run):
    """The step of the newest checkpoint, 0 without one."""
    try:
        return int(os.readlink(run / "checkpoints" / "latest").rpartition("-")[2])
    except OSError:
        return 0


def wait_for_moment(process, run, seconds, step):
    """Until the time is up or the run has saved `step`: so no kill comes after the job's end."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and saved_steps(run) < step:
        time.sleep(0.002)


def run_with_kills(name, whole_seconds, kills=KILLS, stage=0):
    """Start, kill at a random moment, start again, ... until `kills` kills hit and the job is done."""
    chance, run, hit = random.Random(SEED), h.work() / name, []
    for _ in range(20 * kills):
        process = h.start(*command(run, stage))
        if len(hit) < kills:
            # Early and late alike: while starting, in a step, in a checkpoint.
            wait_for_moment(process, run, chance.uniform(0.02, max(0.2, whole_seconds / 3)),
                            STEPS * (len(hit) + 1) // (kills + 1))
            if process.poll() is None:
                line = kill_one(chance)
                hit += [line] if line else []
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            h.ok(False, f"{name}: dsrun ends after a kill", f"after killing {hit[-1:]}")
            h.reap()
            return run
        still = h.left()
        if still:
            h.ok(False, f"{name}: nothing is left running", still)
            h.reap()
        if code == 0:
            break
    h.ok(len(hit) == kills, f"{name}: {kills} kills hit", hit)
    h.ok(code == 0, f"{name}: done after {len(hit)} kills", (h.work() / "start.log").read_text()[-3000:])
    return run


@functools.cache
def weights(run):
    out = h.work() / (run.name + "-hf")
    ran = h.dsrun("ckpt", "export", run, out)
    h.ok(ran.returncode == 0, f"{run.name}: export", ran.stderr)
    path = out / "model.safetensors"
    return path.read_bytes() if path.exists() else b"none: " + run.name.encode()


def same(a, b, what):
    texts = h.metric_texts(a), h.metric_texts(b)
    h.ok(len(texts[0]) == STEPS, f"{what}: each step stands once", len(texts[0]))
    h.ok(texts[0] == texts[1], f"{what}: loss and gradient norm byte-equal",
         [pair for pair in zip(*texts) if pair[0] != pair[1]][:3])
    h.ok(weights(a) == weights(b), f"{what}: exported weights byte-equal")


def told(run, name):
    """The steps of events of that name."""
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event["step"] for event in events if event["event"] == name]


def begun_anew():
    """In the folder of a run that has ended: what that saved is left behind, and what is saved from then on is gone on from,
    by a restart and by the same command without the key."""
    run = run_to_end("anew")
    for resume, at, steps in ((run / "checkpoints" / "step-00000036", 36, 400), ("never", 0, 600)):
        before = len(told(run, "checkpoint"))
        process = h.start(*command(run, 0), f"checkpoint.resume={resume}", f"train.steps={steps}", "--restarts", 1, "--restart-backoff", 0)
        end = time.monotonic() + 30 * h.PATIENCE
        while process.poll() is None and len(told(run, "checkpoint")) < before + 3 and time.monotonic() < end:
            time.sleep(0.01)
        for pid in [pid for pid, line in h.processes().items() if "dsrun-worker" in line][:1]:
            os.kill(pid, signal.SIGKILL)
        code, went = process.wait(120), told(run, "resumed")
        h.ok(code == 0 and went[-2] == at < went[-1], f"begun anew at step {at}: a restart goes on from what was saved since", f"{code} {went}")
        h.ok([m["step"] for m in h.metrics(run)] == list(range(steps)), "and each step stands once", len(h.metrics(run)))
    ran = h.dsrun(*command(run, 0), "checkpoint.resume=never", "train.steps=6")
    again = h.dsrun(*command(run, 0), "train.steps=8")
    h.ok(ran.returncode == again.returncode == 0 and told(run, "resumed")[-2:] == [0, 6], "the same command without the key goes on from there, too",
         f"{told(run, 'resumed')} {ran.stderr}{again.stderr}")


shared_before = h.shared_memory()
begin = time.monotonic()
once = run_to_end("once")
seconds = time.monotonic() - begin
same(once, run_to_end("twice"), "same seed")
same(once, run_with_kills("killed", seconds), "killed and resumed")
shards = run_to_end("shards", stage=3)
same(shards, run_with_kills("shards-killed", seconds, KILLS // 2, stage=3), "stage 3, killed and resumed")
begun_anew()
h.ok(not h.left(), "nothing is left running", h.processes())
h.ok(h.shared_memory() <= shared_before, "nothing is left in /dev/shm", h.shared_memory() - shared_before)
h.done()
