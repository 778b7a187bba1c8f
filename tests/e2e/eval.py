#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""eval - dsrun eval: the loss that a run has at that step, of a checkpoint, of a folder and of initial weights, by any ranks; it
leaves a run as it is and nothing else behind, and can be stopped."""
import json
import math
import os
import signal
import time

import harness as h

LETTERS, DIGITS = h.work() / "letters.txt", h.work() / "digits.txt"
LETTERS.write_text("the quick brown fox jumps over the lazy dog " * 60)
DIGITS.write_text("3141592653589793238462643383279502884197" * 20)
VALID = f"data.valid={{letters: {LETTERS}, digits: {DIGITS}}}"
JOB = h.write_job(steps=4, batch=4, every=2, sequence=16, context=16, eval=2)
RUN = h.work() / "run"


def evaluate(*words, **more):
    ran = h.dsrun("eval", "--json", "--run-dir", RUN, JOB, VALID, "eval.batches=8", *words, **more)
    return ran, json.loads(ran.stdout or "{}")


def tree(folder):
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def near(a, b, limit=1e-9):
    return abs(a - b) <= limit * abs(b)


def whole():
    ran = h.dsrun("--slots", 2, "--run-dir", RUN, JOB, VALID, "eval.batches=8")
    last = [m for m in map(json.loads, (RUN / "metrics.jsonl").read_text().splitlines()) if "valid_loss" in m][-1]
    h.ok(ran.returncode == 0 and last["step"] == 4, "a run", ran.stderr)
    before = tree(RUN)
    for slots, words in ((2, []), (1, []), (2, ["zero.stage=3", "zero.once_per_host=false"]), (2, ["parallel.tensor=2"]), (2, ["parallel.pipeline=2"]),
                         (1, ["activation.recompute=auto", "checkpoint.every=100", "eval.every=0"]),
                         (2, ["optim.name=muon", "zero.stage=1"])):
        ran, got = evaluate("--slots", slots, *words)
        h.ok(ran.returncode == 0 and got["step"] == 4 and got["from"] == str(RUN / "checkpoints" / "step-00000004") and near(got["loss"], last["valid_loss"], 1e-6)
             and math.isclose(got["perplexity"], math.exp(got["loss"]), rel_tol=1e-9), f"{slots} ranks {' '.join(words)}: the loss of the run", f"{got} {last} {ran.stderr}")
        h.ok(set(got["sets"]) == {"letters", "digits"} and all(near(one["loss"], last[f"valid_loss/{name}"], 1e-6) and
                                                             math.isclose(one["perplexity"], math.exp(one["loss"]), rel_tol=1e-9)
                                                             for name, one in got["sets"].items()), f"{slots} ranks {' '.join(words)}: of each set", got)
    ran, got = evaluate("--slots", 2)
    h.ok(got["loss"] == last["valid_loss"], "the same ranks: to the bit", f"{got} {last}")
    h.ok(tree(RUN) == before, "the run is as it was", set(tree(RUN).items()) ^ set(before.items()))
    ran = h.dsrun("eval", "--run-dir", RUN, JOB, VALID, "eval.batches=8")
    lines = ran.stdout.splitlines()
    h.ok(ran.returncode == 0 and lines[0] == f"weights of {RUN}/checkpoints/step-00000004, step 4" and lines[1].split() == ["loss", "perplexity"]
         and [line.split()[0] for line in lines[2:]] == ["letters", "digits", "data.valid"] and near(float(lines[4].split()[1]), last["valid_loss"], 1e-6)
         and near(float(lines[4].split()[2]), math.exp(last["valid_loss"]), 1e-5), "a table", ran.stdout + ran.stderr)
    ran, middle = evaluate(f"checkpoint.resume={RUN}/checkpoints/step-00000002")
    h.ok(ran.returncode == 0 and middle["step"] == 2 and middle["loss"] > last["valid_loss"], "of an older checkpoint", f"{middle} {ran.stderr}")
    return last


def weights(last):
    ran, got = evaluate("checkpoint.resume=never")
    h.ok(ran.returncode == 0 and got["from"] is None and got["step"] == 0 and got["loss"] > last["valid_loss"] + 0.1, "of initial weights", f"{got} {ran.stderr}")
    ran = h.dsrun("eval", "--run-dir", h.work() / "none", JOB, VALID)
    h.ok(ran.returncode == 0 and ran.stdout.startswith("initial weights, before the first step\n") and not (h.work() / "none").exists(),
         "of a run that was never started, which it is not", ran.stdout + ran.stderr)
    folder = h.work() / "folder"
    h.dsrun("ckpt", "export", RUN, folder)
    ran, got = evaluate("checkpoint.resume=never", f"model.init.from={folder}")
    h.ok(ran.returncode == 0 and got["step"] == 0 and near(got["loss"], last["valid_loss"], 1e-5), "of an exported folder", f"{got} {ran.stderr}")
    ran = h.dsrun("eval", JOB, VALID, "checkpoint.resume=never", f"model.init.from={folder}")
    h.ok(ran.stdout.startswith(f"weights of {folder}, before the first step\n"), "which the table names", ran.stdout + ran.stderr)


def wrong():
    for name, words, code, text in (
            ("nothing to evaluate on", ["data.valid=[]", "eval.every=0"], 65, "there is nothing to evaluate on, name it in 'data.valid'"),
            ("a set that is missing", ["--slots", "2", "data.valid=none.txt"], 2, "dsrun: error: data.valid: no file matches 'none.txt'"),
            ("another model", [VALID, f"checkpoint.resume={RUN}", "model.hidden=64"], 65,
             f"ended with code 65: checkpoint '{RUN}/checkpoints/step-00000004': tensor 'transformer.wte.weight' has the shape"),
            ("no checkpoint there", [VALID, "checkpoint.resume=nowhere"], 2, "nowhere"),
            ("fewer hosts", ["--nodes", "1:2", VALID], 2, "'--nodes' takes one number with 'eval'"),
            ("ranks that do not divide the batch", ["--slots", "3", VALID], 65, "'train.global_batch'")):
        ran = h.dsrun("eval", JOB, *words)
        h.ok(ran.returncode == code and text in ran.stderr and not ran.stdout and len(ran.stderr.splitlines()) == 1, f"{name}: {code}", f"{ran.returncode} {ran.stdout} {ran.stderr}")
    (h.work() / "other.txt").write_text("another text " * 100)
    ran, got = evaluate("optim.lr=1", f"data.train={h.work() / 'other.txt'}")
    h.ok(ran.returncode == 0 and ran.stderr == "dsrun: warning: the job has changed since the checkpoint was made, the loss is that of its weights "
         "with the new settings\n", "a job that has changed is told, of the data to train on nothing", ran.stderr)
    ran = h.dsrun("eval", "--dry-run", "--slots", 2, JOB, VALID)
    h.ok(ran.returncode == 0 and "rank 1" in ran.stdout and "perplexity" not in ran.stdout, "a dry run shows the ranks", ran.stdout + ran.stderr)
    ran = h.dsrun("eval", "--dry-run", "--json", JOB, VALID)
    h.ok(ran.returncode == 0 and "placement" in json.loads(ran.stdout), "and as an object", ran.stderr)


def stopped():
    large = h.work() / "large.txt"
    large.write_text("abcdefgh" * 4_000_000)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        child = h.start("eval", "--slots", 2, JOB, f"data.valid={{one: {large}, two: {large}}}", "eval.batches=1000000")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and sum("dsrun-worker" in line for line in h.processes().values()) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(child.pid, number)
        child.wait(60)
        said = (h.work() / "start.log").read_text()
        h.ok(child.returncode == code and "perplexity" not in said and "warning" not in said, f"{number.name}: {code}", f"{child.returncode} {said}")
    h.ok(not h.left(), "no process is left", h.left())
    h.ok("runs" not in os.listdir(h.work()), "no run directory is made", os.listdir(h.work()))


weights(whole())
wrong()
stopped()
h.done()
