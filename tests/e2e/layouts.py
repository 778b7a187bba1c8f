#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""layouts - a checkpoint of any stage and any number of ranks goes on at any other.

A run of each layout is stopped half way, and the rest of it is done in every layout.  Where the number of
ranks is the same, all weights and moments at the end are those of the run that was never stopped, to the
bit and whatever the stages; where it is not, sums are taken in another order, and losses, norms and every
tensor agree as closely as with the float64 answers of parity.py.
The other optimizers, with groups, do the same among three layouts; their losses are what is compared.
"""
import json
import re
import shutil

import harness as h

# stage, ranks
LAYOUTS = [(0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (1, 3), (3, 3), (0, 4), (2, 4), (3, 4)]
if h.SANITIZED:
    LAYOUTS = [(0, 1), (1, 2), (3, 2), (3, 3)]
STEPS, HALF, BATCH = 6, 3, 12
LIMITS = {"loss": 1e-5, "grad_norm": 1e-4, "tensors": 1e-4}  # relative; those of parity.py


def name_of(layout):
    return "stage %d at %d" % layout


OPTIMIZERS = ["adam", "sgd, momentum: 0.9", "lion", "adagrad", "lamb", "muon, adamw_lr: 1.0e-3"]


def train(run, layout, steps, job=None):
    """Train in this layout up to `steps` updates; one micro-batch a rank, so that all stages sum alike."""
    stage, ranks = layout
    ran = h.dsrun("--slots", ranks, "--run-dir", run, job or JOB, f"zero.stage={stage}",
                  f"train.micro_batch={BATCH // ranks}", f"train.steps={steps}")
    return h.ok(ran.returncode == 0, f"{run.name}: {name_of(layout)} trains to step {steps}",
                ran.stdout + ran.stderr)


def folder(layout):
    return h.work() / ("run-%d-%d" % layout)


def worst(key, a, b):
    """The largest relative difference of a metric over all steps."""
    a, b = ([row[key] for row in h.metrics(run)] for run in (a, b))
    return max(abs(x - y) / abs(y) for x, y in zip(a, b)) if len(a) == len(b) == STEPS else 1.0


def agree(name, run, whole, same_bits):
    for key in ("loss", "grad_norm"):
        off = worst(key, run, whole)
        h.ok(off <= LIMITS[key], f"{name}: {key} within {LIMITS[key]:g}", f"{off:g}")
    diff = h.dsrun("ckpt", "diff", "--json", run, whole)
    if same_bits:
        h.ok(diff.returncode == 0, f"{name}: the same bits", diff.stdout + diff.stderr)
        return
    rows = json.loads(diff.stdout or "null")
    h.ok(diff.returncode in (0, 1) and rows is not None and
         all(row["difference"] == "values" and row["relative"] <= LIMITS["tensors"] for row in rows),
         f"{name}: every tensor within {LIMITS['tensors']:g}", diff.stdout[:300] + diff.stderr)


def go_on(source, target):
    """Resume a copy of the half run of `source` as `target`."""
    run = h.work() / "on"
    shutil.copytree(str(folder(source)) + "-half", run, symlinks=True)
    name = f"saved as {name_of(source)}, loaded as {name_of(target)}"
    if train(run, target, STEPS):
        agree(name, run, folder(target), source[1] == target[1])
    shutil.rmtree(run)


def optimizer(words):
    """Half of a run in one layout, the rest of it in the same, in another of as many ranks, and in a third."""
    name, layouts = words.split(",")[0], [(1, 2), (3, 2), (2, 3)]
    text = JOB.read_text()
    job = h.work() / f"{name}.yaml"
    groups = "[{match: '*.bias', lr_mult: 2}, {match: 'transformer.h.0.*', weight_decay: 0.3}]"
    job.write_text(re.sub(r"^optim: .*$", f"optim: {{name: {words}, lr: 3.0e-3, groups: {groups}}}", text, flags=re.M))
    h.ok(job.read_text() != text, f"{name}: a job of its own")
    whole = {one: h.work() / f"{name}-{one[0]}-{one[1]}" for one in layouts[::2]}
    half = h.work() / f"{name}-half"
    for one, run in whole.items():
        train(run, one, STEPS, job)
    train(half, layouts[0], HALF, job)
    for one in layouts:
        run = h.work() / f"{name}-on"
        shutil.copytree(half, run, symlinks=True)
        train(run, one, STEPS, job)
        like = whole.get(one, whole[layouts[0]])
        off = worst("loss", run, like)
        # An element whose sign turns (lion), or that is divided by next to nothing (adagrad, lamb), has a
        # gradient of about zero: the loss does not feel it.
        h.ok(off <= LIMITS["loss"], f"{name} to {name_of(one)}: loss within {LIMITS['loss']:g}", f"{off:g}")
        if one[1] == layouts[0][1]:
            same = h.dsrun("ckpt", "diff", run, like)
            h.ok(same.returncode == 0, f"{name} to {name_of(one)}: the same bits", same.stdout + same.stderr)
        shutil.rmtree(run)
    return tuple(row["loss"] for row in h.metrics(whole[layouts[0]]))


JOB = h.write_job(steps=STEPS, batch=BATCH, micro=1, every=1, keep=2, hidden=36, heads=3, ffn=52, seed=3)
for one in LAYOUTS:
    whole, half = folder(one), folder(one).with_name(folder(one).name + "-half")
    train(whole, one, STEPS)
    train(half, one, HALF)
    listed = h.dsrun("ckpt", "ls", half).stdout
    stage, ranks = one
    shown = (ranks, stage if ranks > 1 else 0, ranks if stage > 0 and ranks > 1 else 1)
    h.ok(re.search(r"^ +%d .* %d +%d +%d +1 +1 +1 +1  whole$" % (HALF, *shown), listed, re.M),
         f"ckpt ls shows {name_of(one)}", listed)
for one in LAYOUTS:
    for other in LAYOUTS:
        go_on(one, other)
ways = [optimizer(words) for words in OPTIMIZERS]
h.ok(len(set(ways)) == len(OPTIMIZERS), "every optimizer goes a way of its own", ways)
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
