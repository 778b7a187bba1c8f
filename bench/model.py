# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""model.py - the cost model: predicted against measured step time of ten jobs on this machine.

For each job every round measures the machine (`dsrun bench machine`), asks `dsrun plan --cluster`
and runs the job, one right after the other: what bf16 units reach changes from one minute to the
next where other machines share them.  The ratio of a job is the median over rounds of predicted /
measured.
"""
import json
import os
import statistics
import tempfile

from common import Failed, cores, run
from step import read_speeds, write_tokens

MOST = 0.15
ROUNDS = 3
GPT2 = {"arch": "gpt2"}
LLAMA = {"arch": "llama, ffn: 1024"}
# Name; family; layers, hidden, heads, sequence, vocabulary; sequences per rank and pass, passes;
# ranks; steps; other keys.
CASES = (
    ("gpt2 3M", GPT2, (4, 256, 4, 128, 256), 8, 1, 1, 12, []),
    ("gpt2 3M, 2 ranks", GPT2, (4, 256, 4, 128, 256), 8, 1, 2, 12, []),
    ("gpt2 3M, 4 passes, stage 1", GPT2, (4, 256, 4, 128, 256), 4, 4, 2, 8, ["zero.stage=1"]),
    ("gpt2 3M, 4 passes, stage 2", GPT2, (4, 256, 4, 128, 256), 4, 4, 2, 8, ["zero.stage=2"]),
    ("gpt2 11M, recompute full", GPT2, (6, 384, 6, 256, 256), 4, 1, 1, 6,
     ["activation.recompute=full"]),
    ("gpt2 11M, bf16", GPT2, (6, 384, 6, 256, 256), 4, 1, 1, 6, ["precision.compute=bf16"]),
    ("gpt2 11M, stage 3", GPT2, (6, 384, 6, 256, 256), 4, 1, 2, 6, ["zero.stage=3"]),
    ("llama 7M, 2 ranks", LLAMA, (4, 384, 6, 256, 512), 4, 1, 2, 6, []),
    ("llama 7M, bf16, stage 1", LLAMA, (4, 384, 6, 256, 512), 4, 1, 2, 6,
     ["precision.compute=bf16", "zero.stage=1"]),
    ("gpt2 124M", GPT2, (12, 768, 12, 256, 50257), 1, 1, 2, 3, []),
)
JOB = """\
name: model
model: {{arch: {arch}, layers: {layers}, hidden: {width}, heads: {heads}, vocab: {vocab}, \
context: {seq}}}
data: {{train: [tokens.bin], format: tokens}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}}}
schedule: {{kind: constant, warmup: 0}}
checkpoint: {{every: 0}}
log: {{sinks: [jsonl]}}
launch: {{slots: {ranks}}}
"""


def write_job(folder, case):
    _, family, shape, micro, passes, ranks, steps, _ = case
    layers, width, heads, seq, vocab = shape
    batch = micro * passes * ranks
    with open(folder + "/job.yaml", "w", encoding="utf-8") as file:
        file.write(JOB.format(layers=layers, width=width, heads=heads, seq=seq, vocab=vocab,
                              steps=steps, batch=batch, micro=micro, ranks=ranks, **family))
    write_tokens(folder, (*shape, batch), steps)
    return batch * seq


def one(dsrun, case):
    """Predicted and measured milliseconds of a step."""
    more, steps = case[7], case[6]
    with tempfile.TemporaryDirectory() as folder:
        cluster = folder + "/machine.yaml"
        with open(cluster, "w", encoding="utf-8") as file:
            file.write(run([dsrun, "bench", "machine", str(case[5])]))
        tokens = write_job(folder, case)
        words = [folder + "/job.yaml", f"data.train={folder}/tokens.bin", *more]
        plan = json.loads(run([dsrun, "plan", "--json", "--cluster", cluster, *words]))
        run([dsrun, "--run-dir", folder + "/run", *words])
        return plan["predicted"]["step_ms"], tokens / read_speeds(folder, 1, steps - 1) * 1e3


def measure(context):
    cases = [case for case in CASES if case[5] <= len(cores())]
    dsrun = os.path.abspath(context.build) + "/bin/dsrun"
    found = {case[0]: [] for case in cases}
    for _ in range(1 if context.quick else ROUNDS):
        for case in cases:
            try:
                found[case[0]].append(one(dsrun, case))
            except Failed as failure:
                context.say(f"    {case[0]} failed: {failure}")
                context.failed = True
                return [], []
    rows, goals = [], []
    for name, samples in found.items():
        predicted, measured = (statistics.median(s[i] for s in samples) for i in (0, 1))
        off = statistics.median(p / m for p, m in samples) - 1
        rows.append({"name": name, "predicted_ms": round(predicted, 1),
                     "measured_ms": round(measured, 1), "off": round(off, 3),
                     "samples": [[round(x, 1) for x in s] for s in samples]})
        context.say(f"    {name:<28} predicted {predicted:9.1f} ms  measured {measured:9.1f} ms  "
                    f"{off:+.1%}")
    worst = max(rows, key=lambda row: abs(row["off"]))
    goals.append({"goal": f"predicted step time of {len(rows)} jobs, the one most off ({worst['name']})",
                  "ours": worst["predicted_ms"], "against": worst["measured_ms"], "unit": "ms",
                  "need": 1 - MOST, "ratio": round(1 - abs(worst["off"]), 4),
                  "met": abs(worst["off"]) <= MOST})
    return rows, goals
