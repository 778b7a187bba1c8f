#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""epochs - a job that says train.epochs makes the steps that its data have, from the beginning and after a stop, with any
number of ranks, sets and a tokenizer; where the data cannot be counted that is one sentence."""
import json

import beds
import harness as h

BATCH, SEQUENCE = 4, 16
TEXT = h.work() / "text.txt"
TEXT.write_text("the quick brown fox jumps over the lazy dog " * 8)
MORE = h.work() / "more.txt"
MORE.write_text("3141592653589793238462643383279502884197" * 6)
JOB = h.write_job(steps=99, batch=BATCH, every=2, sequence=SEQUENCE, context=SEQUENCE)
JOB.write_text(JOB.read_text().replace("steps: 99, global", "epochs: 1.5, global").replace(", steps: 99", "")
               .replace(f"valid: [{h.text_file()}]", "valid: []").replace(str(h.text_file()), str(TEXT)))
GPT2 = h.ROOT / "tests" / "reference" / "tokenizers" / "gpt2.json"


def sequences(*paths):
    return sum((path.stat().st_size - 1) // SEQUENCE for path in paths)


def steps(epochs, count):
    return -(-int(epochs * 10 * count) // (10 * BATCH))


def run(name, *words, slots=1):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / name, JOB, *words)


def counted():
    want = steps(1.5, sequences(TEXT))
    ran = run("one", slots=2)
    record = (h.work() / "one" / "job.yaml").read_text()
    h.ok(ran.returncode == 0 and len(h.metrics(h.work() / "one")) == want and f"  steps: {want}\n" in record and "epochs" not in record,
         f"1.5 epochs of {sequences(TEXT)} sequences are {want} steps", ran.stdout + ran.stderr)
    given = run("given", f"train.steps={want}", slots=2)
    texts = h.metric_texts(h.work() / "one"), h.metric_texts(h.work() / "given")
    h.ok(given.returncode == 0 and texts[0] == texts[1], "the losses, and the schedule, of a job that says so many steps", texts)
    h.ok(h.dsrun("check", JOB).returncode == 0, "check")
    for words in (("plan", JOB), ("--dry-run", JOB)):
        ran = h.dsrun(*words)
        h.ok(ran.returncode == 0 and f", {want} steps\n" in ran.stdout, f"{words[0]} counts them, too", ran.stdout + ran.stderr)
    ran = run("mixed", f"data.train=[{{path: {TEXT}, weight: 9}}, {MORE}]", "train.epochs=1")
    want = steps(1, sequences(TEXT, MORE))
    h.ok(ran.returncode == 0 and len(h.metrics(h.work() / "mixed")) == want, f"of a mixture all sets together: {want} steps", ran.stderr)


def going_on():
    """Stopped after some steps, and going on, with the schedule of all of them."""
    want = steps(1.5, sequences(TEXT))
    ran = run("again", "train.steps=2", f"schedule.steps={want}", slots=2)
    h.ok(ran.returncode == 0 and len(h.metrics(h.work() / "again")) == 2, "two steps", ran.stderr)
    ran = run("again", slots=2)
    texts = h.metric_texts(h.work() / "one"), h.metric_texts(h.work() / "again")
    h.ok(ran.returncode == 0 and "changed" not in ran.stdout + ran.stderr and texts[0] == texts[1], "and the rest of the epochs", ran.stdout + ran.stderr)


def tokenized():
    words = (f"data.tokenizer={GPT2}", "train.epochs=2")
    for command in (("check",), ("plan",), ("--dry-run",), ("tune", "--trials", "0")):
        ran = h.dsrun(*command, "--run-dir", h.work() / "ids", JOB, *words)
        h.ok(ran.returncode == 2 and "override 'train.epochs=2': 'train.epochs' goes by the data: data.train: its ids have not been made yet: '"
             in ran.stderr and not (h.work() / "ids").exists(), f"{command[0]} makes no ids", ran.stdout + ran.stderr)
    ran = run("ids", *words)
    kept = next((h.work() / "ids" / "tokens").glob("train-*.bin"))
    want = steps(2, (kept.stat().st_size - 1024) // 2 // SEQUENCE)
    h.ok(ran.returncode == 0 and len(h.metrics(h.work() / "ids")) == want and ran.stdout.count("tokens    data.train: ") == 1,
         f"ids are made once, and have {want} steps", ran.stdout + ran.stderr)
    ran = h.dsrun("plan", "--run-dir", h.work() / "ids", JOB, *words)
    h.ok(ran.returncode == 0 and f", {want} steps\n" in ran.stdout, "then plan knows it, too", ran.stdout + ran.stderr)


def refused():
    for word, code, says in (("data.train=none.txt", 2, "job.yaml:5:17: 'train.epochs' goes by the data: data.train: no file matches 'none.txt'"),
                             ("schedule.warmup=10000", 65, "'schedule.warmup' must be at most 'train.steps' ")):
        for command in ("check", "plan", "run"):
            ran = h.dsrun(command, "--run-dir", h.work() / "refused", JOB, word)
            h.ok(ran.returncode == code and says in ran.stderr and ran.stderr.count("\n") == 1 and not (h.work() / "refused").exists(),
                 f"{command}: {says[:40]}", ran.stdout + ran.stderr)
    ran = h.dsrun("check", JOB, "data.train=none.txt", "train.steps=3")
    h.ok(ran.returncode == 0, "steps on the command line do without the data", ran.stderr)


def hosts():
    """Ranks of other hosts get the steps that were counted here."""
    if beds.missing():
        h.skip("on two hosts", beds.missing())
        return
    with beds.Hosts(2) as bed:
        ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "--run-dir", "hosts", "--json")
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        h.ok(ran.returncode == 0 and len([line for line in lines if "loss" in line]) == steps(1.5, sequences(TEXT)), "on two hosts", ran.stderr)


counted()
going_on()
tokenized()
refused()
hosts()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
