#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""mix - a job that mixes data sets: what plan and header say of each, the same numbers after a kill, on other ranks and with a
tokenizer, and what is told when the mixture has changed."""
import json
import os
import signal
import time

import harness as h

STEPS, BATCH, SEQUENCE = 40, 8, 16
TAKEN = STEPS * BATCH * 3 // 4, STEPS * BATCH // 4
LETTERS = h.work() / "letters.txt"
DIGITS = [h.work() / "digits-1.txt", h.work() / "digits-2.txt"]
LETTERS.write_text("the quick brown fox jumps over the lazy dog " * 40)
for digits in DIGITS:
    digits.write_text("3141592653589793238462643383279502884197" * 6)
MIXED = f"data.train=[{{path: {LETTERS}, weight: 3}}, {{path: [{DIGITS[0]}, {DIGITS[1]}]}}]"
JOB = h.write_job(steps=STEPS, batch=BATCH, every=2, sequence=SEQUENCE, context=SEQUENCE)


def run(name, *words, slots=2, mixed=MIXED):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / name, JOB, "data.valid=[]", mixed, *words)


def samples(*paths):
    return sum((path.stat().st_size - 1) // SEQUENCE for path in paths)


def described():
    """Sequences and epochs of each set over the steps of the job, in all places that show the plan."""
    letters, digits = samples(LETTERS), samples(*DIGITS)
    lines = [f"data      75% of {LETTERS}: {TAKEN[0]} sequences, {TAKEN[0] / letters:.3g} epochs of {letters}",
             f"          25% of {DIGITS[0]}, ...: {TAKEN[1]} sequences, {TAKEN[1] / digits:.3g} epochs of {digits}"]
    for words in (("plan", JOB, MIXED), ("--dry-run", JOB, MIXED)):
        ran = h.dsrun(*words)
        h.ok(ran.returncode == 0 and "\n".join(lines) + "\n" in ran.stdout, f"{words[0]}: a line for each set", ran.stdout + ran.stderr)
    for words in (("plan", "--json", JOB, MIXED), ("--dry-run", "--json", JOB, MIXED)):
        sets = json.loads(h.dsrun(*words).stdout)["data_train"]
        h.ok([(one["path"], one["weight"], one["sequences"], one["epoch_sequences"]) for one in sets]
             == [([str(LETTERS)], 3, TAKEN[0], letters), ([str(path) for path in DIGITS], 1, TAKEN[1], digits)], f"{words[0]} --json", sets)
    ran = h.dsrun("plan", JOB, MIXED.replace("digits-2", "elsewhere"))
    h.ok(ran.returncode == 0 and f"data      75% of {LETTERS}: {TAKEN[0]} sequences\n" in ran.stdout, "plan where the data is not", ran.stdout + ran.stderr)
    ran = h.dsrun("plan", JOB)
    h.ok(ran.returncode == 0 and "\ndata  " not in ran.stdout, "one set: no line", ran.stdout)
    return lines


def killed():
    """Killed at a checkpoint in the middle and started again: the numbers of a run that was not."""
    lines = described()
    ran = run("once")
    h.ok(ran.returncode == 0 and "\n".join(lines) + "\n" in ran.stdout, "the header has the lines of plan", ran.stdout + ran.stderr)
    path = h.work() / "killed"
    process = h.start("--slots", 2, "--run-dir", path, JOB, "data.valid=[]", MIXED)
    limit = time.monotonic() + 60
    while not (path / "checkpoints" / "latest").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    h.ok(not h.left(), "a run is killed", h.left())
    before = len(h.metrics(path))
    ran = run("killed")
    h.ok(ran.returncode == 0 and before < STEPS and "going on from the checkpoint" in ran.stdout, f"killed after {before} steps, and going on",
         ran.stdout + ran.stderr)
    texts = h.metric_texts(h.work() / "once"), h.metric_texts(path)
    h.ok(len(texts[0]) == STEPS and texts[0] == texts[1], "the same losses", texts)


def ranks():
    """Sequences are those of the positions of a step, whoever reads them."""
    ran = run("one-rank", slots=1)
    losses = [[m["loss"] for m in h.metrics(h.work() / name)] for name in ("once", "one-rank")]
    h.ok(ran.returncode == 0 and all(abs(a - b) < 1e-4 for a, b in zip(*losses)), "one rank reads what two read", f"{losses} {ran.stderr}")


def one_set():
    """However one set is written, and whatever it weighs, the numbers are those of a list."""
    want = None
    for number, text in enumerate((f"[{DIGITS[0]}, {DIGITS[1]}]", f"{{path: [{DIGITS[0]}, {DIGITS[1]}], weight: 7}}")):
        ran = run(f"set-{number}", mixed=f"data.train={text}")
        texts = h.metric_texts(h.work() / f"set-{number}")
        want = want or texts
        h.ok(ran.returncode == 0 and len(texts) == STEPS and texts == want, f"one set as {text[:12]}...", ran.stderr)
    ran = run("set-0", f"train.steps={STEPS + 1}", f"schedule.steps={STEPS}", mixed=f"data.train={{path: [{DIGITS[0]}, {DIGITS[1]}]}}")
    h.ok(ran.returncode == 0 and "changed" not in ran.stdout + ran.stderr, "a list and a map of its paths are one job", ran.stdout + ran.stderr)


def changed():
    other = MIXED.replace("weight: 3", "weight: 1")
    ran = run("once", f"train.steps={STEPS + 2}", f"schedule.steps={STEPS}", mixed=other)
    h.ok(ran.returncode == 0 and f"changed since the last run here: data.train [{{path: [{LETTERS}], weight: 1}}, " in ran.stdout
         and "was [{path: [" in ran.stdout and f"going on from the checkpoint at step {STEPS}" in ran.stdout
         and "the job has changed since the checkpoint was made" in ran.stderr, "weights that have changed are named", ran.stdout + ran.stderr)


def tokenized():
    """Each set becomes a file of ids, and the numbers are those of such files."""
    gpt2 = h.ROOT / "tests" / "reference" / "tokenizers" / "gpt2.json"
    words = ("--tokenizer", gpt2, "--force")
    for out, texts in (("letters.bin", [LETTERS]), ("digits.bin", DIGITS)):
        ran = h.dsrun("data", "tokenize", *words, h.work() / out, *texts)
        h.ok(ran.returncode == 0, f"{out} is made", ran.stderr)
    ran = run("files", "model.vocab=901", mixed=f"data.train=[{{path: {h.work() / 'letters.bin'}, weight: 3}}, {h.work() / 'digits.bin'}]")
    made = run("named", f"data.tokenizer={gpt2}")
    kept = list((h.work() / "named" / "tokens").iterdir())
    h.ok(ran.returncode == 0 and made.returncode == 0 and len(kept) == 2
         and "tokens    data.train item 1: " in made.stdout and "tokens    data.train item 2: " in made.stdout, "ids of each set", made.stdout + made.stderr)
    texts = h.metric_texts(h.work() / "files"), h.metric_texts(h.work() / "named")
    h.ok(len(texts[0]) == STEPS and texts[0] == texts[1], "the same losses as with files of ids", texts)
    lines = [line.rpartition(": ")[2] for ran in (ran, made) for line in ran.stdout.splitlines() if " epochs of " in line]
    h.ok(len(lines) == 4 and lines[:2] == lines[2:], "and as many epochs", lines)


def refused():
    none = h.work() / "none.txt"
    ids = h.work() / "digits.bin"
    for more, code, says in ((f"data.train=[{{path: {LETTERS}, weight: 2}}, {none}]", 2, f"data.train item 2: no file matches '{none}'"),
                             (f"data.valid=[{{path: {LETTERS}, weight: 2}}, {none}]", 2, f"data.valid item 2: no file matches '{none}'"),
                             (f"data.train=[{{path: {LETTERS}, weight: 2}}, {ids}]", 65, f"data.train: '{LETTERS}' is text and '{ids}' holds token ids"),
                             (f"data.train=[{{path: {LETTERS}, weight: -2}}]", 65, "'data.train' item 1: 'weight' must be a number between"),
                             (f"data.train=[{{path: {LETTERS}, wight: 2}}]", 65, "unknown key 'wight', did you mean 'weight'?")):
        ran = run("refused", more)
        h.ok(ran.returncode == code and says in ran.stderr and not (h.work() / "refused").exists(), f"refused: {says[:40]}", ran.stdout + ran.stderr)


def evaluated():
    """data.valid mixes likewise: of both sets the loss is between those of each."""
    losses = []
    for name, valid in (("letters", f"{LETTERS}"), ("both", f"[{{path: {LETTERS}}}, {DIGITS[0]}]"), ("digits", f"{DIGITS[0]}")):
        ran = run(f"valid-{name}", f"data.valid={valid}", f"eval.every={STEPS}", "eval.batches=2")
        lines = (h.work() / f"valid-{name}" / "metrics.jsonl").read_text().splitlines()
        losses += [m["valid_loss"] for m in map(json.loads, lines) if "valid_loss" in m]
        h.ok(ran.returncode == 0, f"evaluated on {name}", ran.stderr)
    h.ok(len(losses) == 3 and min(losses[0], losses[2]) < losses[1] < max(losses[0], losses[2]), "a mixture is between its sets", losses)


killed()
ranks()
one_set()
changed()
tokenized()
refused()
evaluated()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
