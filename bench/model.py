# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""model.py - the cost model: predicted against measured step time of ten jobs on this machine.

The machine is measured (`dsrun bench machine`) right before and right after every run of a job, and
the job predicted (`dsrun plan`) by both: what a core reaches changes from one second to the
next where other machines share it.  A round's ratio is the mean of the two predictions / the mean
step of the run, for rates are means, too; a job's is the median of the rounds' ratios.  No sample is left out.
"""
import json
import os
import statistics
import tempfile

from common import Failed, cores, run
from step import read_all_speeds, write_tokens

MOST = 0.15
ROUNDS = 9
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
    ("gpt2 124M", GPT2, (12, 768, 12, 256, 50257), 1, 1, 2, 5, []),
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


def measure_machine(dsrun, ranks):
    """This machine as a cluster file, as so many ranks find it now."""
    return run([dsrun, "bench", "machine", str(ranks)])


def predict(dsrun, folder, machine, words):
    """As a user has it: on hosts whose rates are known, not on a described cluster."""
    config = folder + "/config"
    os.makedirs(config + "/dsrun", exist_ok=True)
    with open(config + "/dsrun/machine.yaml", "w", encoding="utf-8") as file:
        file.write(machine)
    plan = run([dsrun, "plan", "--json", *words], env={"XDG_CONFIG_HOME": config})
    return json.loads(plan)["predicted"]["step_ms"]


def one(dsrun, case, before):
    """Predicted and measured milliseconds of a step, and the machine behind it."""
    more, steps = case[7], case[6]
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_job(folder, case)
        words = [folder + "/job.yaml", f"data.train={folder}/tokens.bin", *more]
        run([dsrun, "--run-dir", folder + "/run", *words])
        after = measure_machine(dsrun, case[5])
        predicted = statistics.mean(predict(dsrun, folder, m, words) for m in (before, after))
        speeds = read_all_speeds(folder, 1, steps - 1)
        return (predicted, statistics.mean(tokens / speed * 1e3 for speed in speeds)), after


def one_round(dsrun, cases, found):
    ranks = machine = None
    for case in cases:
        if case[5] != ranks:
            ranks = case[5]
            machine = measure_machine(dsrun, ranks)
        sample, machine = one(dsrun, case, machine)
        found[case[0]].append(sample)


def measure(context):
    cases = sorted((case for case in CASES if case[5] <= len(cores())), key=lambda case: case[5])
    dsrun = os.path.abspath(context.build) + "/bin/dsrun"
    found = {case[0]: [] for case in cases}
    try:
        for _ in range(1 if context.quick else ROUNDS):
            one_round(dsrun, cases, found)
    except Failed as failure:
        context.say(f"    failed: {failure}")
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
