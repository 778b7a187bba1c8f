#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""valid - several sets to evaluate on, each with a name: each has the loss that it has alone, their mean is over all targets,
and metrics, console, TensorBoard's files and the report have them all."""
import csv
import json
import math
import time

import harness as h

STEPS, BATCH, SEQUENCE = 6, 4, 16
LETTERS = h.work() / "letters.txt"
DIGITS = h.work() / "digits.txt"
LETTERS.write_text("the quick brown fox jumps over the lazy dog " * 40)
DIGITS.write_text("3141592653589793238462643383279502884197" * 6)
JOB = h.write_job(steps=STEPS, batch=BATCH, every=3, sequence=SEQUENCE, context=SEQUENCE, eval=3)
BATCHES = {"letters": 8, "digits": (DIGITS.stat().st_size - 1) // SEQUENCE // BATCH}
NAMED = f"data.valid={{letters: {LETTERS}, digits: {DIGITS}}}"


def run(name, valid, *words, slots=1):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / name, JOB, valid, "eval.batches=8", *words)


def evaluations(name):
    """Lines of evaluations, their numbers as text."""
    lines = (h.work() / name / "metrics.jsonl").read_text().splitlines()
    return [m for m in (json.loads(line, parse_float=str) for line in lines) if "valid_loss" in m]


def apart():
    for slots in (1, 2):
        ran = run(f"named-{slots}", NAMED, slots=slots)
        got = evaluations(f"named-{slots}")
        h.ok(ran.returncode == 0 and [m["step"] for m in got] == [3, 6]
             and all(set(m) == {"step", "time", "valid_loss", "valid_loss/letters", "valid_loss/digits"} for m in got), f"{slots} ranks: each name", f"{got} {ran.stderr}")
        for name, path in (("letters", LETTERS), ("digits", DIGITS)):
            ran = run(f"{name}-{slots}", f"data.valid={path}", slots=slots)
            alone = [m["valid_loss"] for m in evaluations(f"{name}-{slots}")]
            h.ok(ran.returncode == 0 and alone == [m[f"valid_loss/{name}"] for m in got], f"{slots} ranks: {name} as it is alone, to the bit", alone)
        for m in got:
            mean = sum(BATCHES[name] * float(m[f"valid_loss/{name}"]) for name in BATCHES) / sum(BATCHES.values())
            h.ok(math.isclose(mean, float(m["valid_loss"]), rel_tol=1e-10), f"{slots} ranks: the mean over all targets at step {m['step']}", f"{mean} {m}")
    ran = run("list", f"data.valid=[{{path: {LETTERS}, name: letters}}, {{path: {DIGITS}, name: digits}}]")
    texts = [[{k: v for k, v in m.items() if k != "time"} for m in evaluations(name)] for name in ("list", "named-1")]
    h.ok(ran.returncode == 0 and texts[0] == texts[1], "a list with names is the same", texts)
    texts = [h.metric_texts(h.work() / name) for name in ("named-1", "letters-1")]
    h.ok(texts[0] == texts[1], "training does not depend on it", texts)


def shown():
    last = evaluations("named-1")[-1]
    ran = h.dsrun("report", h.work() / "named-1", "-o", h.work() / "page.html")
    page = (h.work() / "page.html").read_text()
    h.ok(ran.returncode == 0 and "<h2>validation loss: letters</h2>" in page and "<h2>validation loss: digits</h2>" in page, "plots of both", page[:2000])
    with open(h.work() / "named-1" / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = "step,loss,grad_norm,lr,tokens,tokens_per_s,step_ms,mfu,skipped,time,valid_loss,valid_loss/letters,valid_loss/digits".split(",")
    h.ok(list(rows[0]) == names and [float(r["valid_loss/digits"]) for r in rows if r["valid_loss"]] == [float(m["valid_loss/digits"]) for m in evaluations("named-1")],
         "columns of both", rows)
    ran = run("boarded", NAMED, "log.sinks=[console, csv, tensorboard]")
    board = next((h.work() / "boarded").glob("events.out.tfevents.*")).read_bytes()
    h.ok(ran.returncode == 0 and b"valid_loss/letters" in board and b"valid_loss/digits" in board, "TensorBoard's file has both", ran.stderr)
    line = f"step 6/6  valid loss {float(last['valid_loss']):.4f}, letters {float(last['valid_loss/letters']):.4f}, digits {float(last['valid_loss/digits']):.4f}\n"
    h.ok(line in ran.stdout, "the console says both", f"{line} {ran.stdout}")


def going_on():
    """Another name later: one more column, and what was there stays."""
    run("later", f"data.valid={{letters: {LETTERS}}}", "train.steps=3", f"schedule.steps={STEPS}")
    before = (h.work() / "later" / "metrics.csv").read_text().splitlines()
    ran = run("later", NAMED)
    after = (h.work() / "later" / "metrics.csv").read_text().splitlines()
    h.ok(ran.returncode == 0 and after[0] == before[0] + ",valid_loss/digits" and after[1:len(before)] == before[1:] and len(after) == 1 + STEPS + 2
         and after[-1].count(",") == after[0].count(","), "a column more", f"{before} {after} {ran.stderr}")
    texts = [m["valid_loss/digits"] for m in evaluations("later")[1:]], [m["valid_loss/digits"] for m in evaluations("named-1")[1:]]
    h.ok(texts[0] == texts[1], "and the numbers of a run that had it from the beginning", texts)


def stopped():
    """A run that is told to stop where it evaluates, as it does after every step here, evaluates before it ends."""
    words = ("eval.every=1", "train.steps=200")
    child = h.start("--slots", 2, "--run-dir", h.work() / "stopped", JOB, NAMED, "eval.batches=8", *words)
    metrics = h.work() / "stopped" / "metrics.jsonl"
    end = time.monotonic() + 30 * h.PATIENCE
    while child.poll() is None and time.monotonic() < end and not (metrics.exists() and len(metrics.read_text().splitlines()) > 6):
        time.sleep(0.01)
    child.terminate()
    code, told = child.wait(60), evaluations("stopped")
    h.ok(code == 75 and all(float(m["valid_loss"]) > 1 for m in told), "stopped where it evaluates: that loss is told", f"{code} {told[-2:]}")
    ran = run("stopped", NAMED, *words, slots=2)
    run("whole", NAMED, *words, slots=2)
    texts = [[(m["step"], m["valid_loss"]) for m in evaluations(name)] for name in ("stopped", "whole")]
    h.ok(ran.returncode == 0 and len(texts[0]) == 200 and texts[0] == texts[1], "and goes on to the losses of a run that was left alone",
         f"{ran.stderr} {[pair for pair in zip(*texts) if pair[0] != pair[1]][:3]}")


def tokenized():
    gpt2 = h.ROOT / "tests" / "reference" / "tokenizers" / "gpt2.json"
    ran = run("ids", NAMED, f"data.tokenizer={gpt2}")
    kept = sorted(path.name.split("-")[0] for path in (h.work() / "ids" / "tokens").iterdir())
    h.ok(ran.returncode == 0 and kept == ["train", "valid", "valid"] and "valid_loss/digits" in evaluations("ids")[0], "ids of each", f"{kept} {ran.stdout}{ran.stderr}")


def refused():
    for word, code, says in ((f"data.valid={{a: {LETTERS}, b: none.txt}}", 2, "data.valid.b: no file matches 'none.txt'"),
                             (f"data.valid={{a: {LETTERS}, b: [{{path: {LETTERS}}}, none.txt]}}", 2, "data.valid.b item 2: no file matches 'none.txt'"),
                             (f"data.valid={{a b: {LETTERS}}}", 65, "'name' in 'data.valid' must be of letters")):
        ran = run("refused", word)
        h.ok(ran.returncode == code and says in ran.stderr and not (h.work() / "refused").exists(), f"refused: {says[:40]}", ran.stdout + ran.stderr)


apart()
shown()
going_on()
stopped()
tokenized()
refused()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
