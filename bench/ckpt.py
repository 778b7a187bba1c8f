# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""ckpt.py - checkpoints: bytes per second against dd with fsync, and how long a run stands still.

Write rate, in turn: dd of as many zeros (8 MiB at a time, fsync at the end) and a save at once by one
rank, which sums every block, syncs its files and commits, into the same file system.  Which of them is
first changes from round to round: a disk whose rate is limited by a budget gives the second one less.  Stall: GPT-2 of
124M parameters at its own context, 2 ranks, one sequence each per step, a checkpoint behind every
second step; `stall_ms` of the events against the median step that no checkpoint begins in.
"""
import json
import os
import statistics
import tempfile
import time

from common import cores, goal, limit, run, run_json
from step import JOB, write_tokens

MIB = 1416  # what 124M parameters and two moments take in fp32
SHAPE = (12, 768, 12, 1024, 50257, 2)
STEPS, EVERY = 5, 2


def dd_s(folder, mib):
    path = os.path.join(folder, "zeros")
    began = time.perf_counter()
    run(["dd", "if=/dev/zero", f"of={path}", "bs=8M", f"count={mib // 8}", "conv=fsync"])
    taken = time.perf_counter() - began
    os.unlink(path)
    return taken


def rates(context, where, mib, rounds):
    """[(dd, save, load)] in MiB per second."""
    found = []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory(dir=where) as folder:
            taken = {}
            for what in ("dd", "save") if turn % 2 == 0 else ("save", "dd"):
                os.sync()
                taken[what] = dd_s(folder, mib) if what == "dd" else \
                    run_json([context.build + "/bench/ckpt", folder, str(mib)])
        found.append((mib / taken["dd"], mib / taken["save"]["save_s"], mib / taken["save"]["load_s"]))
        context.say("    dd %7.0f MiB/s   save %7.0f MiB/s   load %7.0f MiB/s" % found[-1])
    return found


def events_of(folder, name):
    with open(os.path.join(folder, "run", "events.jsonl"), encoding="utf-8") as file:
        return [event for event in map(json.loads, file) if event.get("event") == name]


def step_times(folder):
    with open(os.path.join(folder, "run", "metrics.jsonl"), encoding="utf-8") as file:
        return [row["step_ms"] for row in map(json.loads, file) if "step_ms" in row]


def stall(context, where, shape):
    """Milliseconds of the stalls behind which there was a step, and of the steps."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        layers, width, heads, seq, vocab, batch = shape
        text = JOB.format(layers=layers, width=width, heads=heads, seq=seq, vocab=vocab,
                          steps=STEPS, batch=batch, micro=1, compute="fp32", threads=1)
        with open(folder + "/job.yaml", "w", encoding="utf-8") as file:
            file.write(text)
        write_tokens(folder, shape, STEPS)
        run([os.path.abspath(context.build) + "/bin/dsrun", "--slots", "2", "--run-dir",
             folder + "/run", folder + "/job.yaml", f"data.train={folder}/tokens.bin",
             f"checkpoint.every={EVERY}", "checkpoint.keep=1"], limit_s=600)
        behind = [event for event in events_of(folder, "checkpoint") if event["step"] < STEPS]
        steps = step_times(folder)
    return behind, steps[1:]


def measure(context):
    where = os.path.abspath(context.build)
    mib = 256 if context.quick else MIB
    found = rates(context, where, mib, 2 if context.quick else 6)
    rows = [{"mib": mib, "dd": dd, "save": save, "load": load} for dd, save, load in found]
    goals = [goal("writing a checkpoint against dd with fsync",
                  statistics.median(row["save"] for row in rows),
                  statistics.median(row["dd"] for row in rows), "MiB/s", 0.8,
                  ratio=statistics.median(row["save"] / row["dd"] for row in rows))]
    if context.quick or len(cores()) < 2:
        return rows, goals
    behind, steps = stall(context, where, SHAPE)
    stalls = [event["stall_ms"] for event in behind]
    step = statistics.median(steps)
    context.say(f"    stalls {', '.join(f'{x:.0f}' for x in stalls)} ms   step {step:.0f} ms   "
                f"all steps {', '.join(f'{x:.0f}' for x in steps)} ms")
    rows.append({"stall_ms": stalls, "step_ms": steps, "behind_ms": [e["ms"] for e in behind]})
    goals.append(limit("stall of a checkpoint written behind, of a step at 124M",
                       100 * statistics.median(stalls) / step, 5.0, "%"))
    return rows, goals
