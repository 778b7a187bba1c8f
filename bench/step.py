# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""step.py - training speed of three GPT-2 shapes through the real command line.

In turn, once per round: the matrix-product floor, two of them at once (the scaling that the
machine itself allows), PyTorch, dsrun with one thread, two threads, two
ranks of one thread, PyTorch under DDP, and for the largest shape dsrun in bf16.  A round's sample
is the median over the measured steps of one run; steps before them warm the run up.
"""
import array
import concurrent.futures
import json
import os
import random
import statistics
import tempfile

from common import HERE, PYTHON, Failed, cores, goal, paired, pinned, run, run_json, torch_env
from common import torch_version

#        layers width heads seq  vocab  batch    steps: unmeasured, measured
SHAPES = {
    "A": ((4, 128, 4, 128, 256, 16), 2, 8),
    "B": ((6, 384, 6, 256, 256, 8), 1, 2),
    "C": ((12, 768, 12, 256, 50257, 2), 1, 1),
}
ROUNDS = 5
LIMIT_S = 240

JOB = """\
name: step
run_dir: run
model: {{arch: gpt2, layers: {layers}, hidden: {width}, heads: {heads}, vocab: {vocab}, \
context: {seq}}}
data: {{train: [tokens.bin], format: tokens}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}}}
optim: {{lr: 3.0e-4, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}}
schedule: {{kind: constant, warmup: 0}}
precision: {{compute: {compute}}}
checkpoint: {{every: 0}}
log: {{sinks: [jsonl]}}
launch: {{threads: {threads}}}
"""


def write_tokens(folder, shape, steps):
    seq, vocab, batch = shape[3:]
    dice = random.Random(1)
    tokens = array.array("H", (dice.randrange(vocab) for _ in range((steps + 2) * batch * seq + 1)))
    with open(folder + "/tokens.bin", "wb") as file:
        tokens.tofile(file)


def write_job(folder, shape, steps, ranks, threads, compute):
    layers, width, heads, seq, vocab, batch = shape
    text = JOB.format(layers=layers, width=width, heads=heads, seq=seq, vocab=vocab, steps=steps,
                      batch=batch, micro=batch // ranks, compute=compute, threads=threads)
    with open(folder + "/job.yaml", "w", encoding="utf-8") as file:
        file.write(text)
    write_tokens(folder, shape, steps)


def read_all_speeds(folder, warm, steps):
    """Tokens a second of each step after the first ones."""
    speeds = []
    with open(folder + "/run/metrics.jsonl", encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if "tokens_per_s" in record:
                speeds.append(record["tokens_per_s"])
    if len(speeds) != warm + steps:
        raise Failed(f"dsrun wrote {len(speeds)} steps instead of {warm + steps}")
    return speeds[warm:]


def read_speeds(folder, warm, steps):
    return statistics.median(read_all_speeds(folder, warm, steps))


def dsrun(build, config, ranks, threads, compute, more=(), steps=None):
    shape, warm, usual = SHAPES[config]
    steps = steps or usual
    with tempfile.TemporaryDirectory() as folder:
        write_job(folder, shape, warm + steps, ranks, threads, compute)
        run([os.path.abspath(build) + "/bin/dsrun", "--slots", str(ranks), "--run-dir",
             folder + "/run", folder + "/job.yaml", f"data.train={folder}/tokens.bin", *more],
            limit_s=LIMIT_S)
        return read_speeds(folder, warm, steps)


def torch(config, ranks, threads):
    shape, warm, steps = SHAPES[config]
    argv = [HERE + "/peers/torch_gpt.py", "--shape", ",".join(str(x) for x in shape), "--threads",
            str(threads), "--warm", str(warm), "--steps", str(steps)]
    argv = [PYTHON] + ([HERE + "/peers/ranks.py", str(ranks)] if ranks > 1 else []) + argv
    with pinned(ranks * threads):
        ms = statistics.median(run_json(argv, torch_env(threads), LIMIT_S)["step_ms"])
    return shape[3] * shape[5] / ms * 1e3


def floor(build, config):
    shape = SHAPES[config][0]
    reps = SHAPES[config][2]
    with pinned(1):
        return run_json([build + "/bench/floor", *(str(x) for x in (*shape, reps))],
                        {"OPENBLAS_NUM_THREADS": "1"}, LIMIT_S)["tokens_per_s"]


def two_floors(build, config):
    """Two floors at once, a core each: what two cores of this machine do together."""
    shape, _, reps = SHAPES[config]
    argv = [build + "/bench/floor", *(str(x) for x in (*shape, reps))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_json, ["taskset", "-c", str(core), *argv],
                            {"OPENBLAS_NUM_THREADS": "1"}, LIMIT_S) for core in cores()[:2]]
        return sum(job.result()["tokens_per_s"] for job in jobs)


def variants(context, config, with_torch):
    """name -> function that gives tokens per second."""
    build, found = context.build, {}
    two = len(cores()) > 1
    if os.path.exists(build + "/bench/floor"):
        found["floor"] = lambda: floor(build, config)
        if two:
            found["two floors at once"] = lambda: two_floors(build, config)
    if with_torch:
        found["torch"] = lambda: torch(config, 1, 1)
    found["dsrun"] = lambda: dsrun(build, config, 1, 1, "fp32")
    if two:
        found["dsrun 2 threads"] = lambda: dsrun(build, config, 1, 2, "fp32")
        found["dsrun 2 ranks"] = lambda: dsrun(build, config, 2, 1, "fp32")
    if two and with_torch:
        found["torch DDP 2 ranks"] = lambda: torch(config, 2, 1)
    if config == "C":
        found["dsrun bf16"] = lambda: dsrun(build, config, 1, 1, "bf16")
    return found


def measure_config(context, config, rounds, with_torch):
    found = variants(context, config, with_torch)
    speed = {name: [] for name in found}
    for _ in range(rounds):
        for name, sample in found.items():
            try:
                speed[name].append(sample())
            except Failed as failure:
                context.say(f"    {config} {name} failed: {failure}")
                context.failed = True
    return {name: samples for name, samples in speed.items() if len(samples) == rounds}


def compare(config, speed, text, name, other, need, above=False):
    ours, against = speed.get(name), speed.get(other)
    text = f"{config}: {text}"
    if not ours or not against:
        return goal(text, None, None, "tokens/s", need)
    return goal(text, round(statistics.median(ours), 1), round(statistics.median(against), 1),
                "tokens/s", need, ratio=paired(ours, against), above=above)


def goals_of(config, speed):
    goals = [
        compare(config, speed, "one core against the matrix-product floor", "dsrun", "floor", 0.85),
        compare(config, speed, "one core against PyTorch", "dsrun", "torch", 1.0, True),
        compare(config, speed, "two threads against one", "dsrun 2 threads", "dsrun", 1.85),
        compare(config, speed, "two ranks against one", "dsrun 2 ranks", "dsrun", 1.9),
        compare(config, speed, "two ranks against DDP with gloo", "dsrun 2 ranks",
                "torch DDP 2 ranks", 1.0, True),
    ]
    if config == "C":
        goals.append(compare(config, speed, "bf16 against PyTorch's fp32, one core", "dsrun bf16",
                             "torch", 1.6))
    return goals


def measure(context):
    with_torch = torch_version() is not None
    rows, goals = [], []
    plan = {"A": 3, "B": 1} if context.quick else dict.fromkeys(SHAPES, ROUNDS)
    for config, rounds in plan.items():
        if context.configs and config not in context.configs:
            continue
        speed = measure_config(context, config, rounds, with_torch)
        for name, samples in speed.items():
            rows.append({"config": config, "name": name, "rounds": rounds,
                         "tokens_per_s": round(statistics.median(samples), 1),
                         "samples": [round(s, 1) for s in samples]})
            context.say(f"    {config}  {name:<18} {statistics.median(samples):10.1f} tokens/s")
        goals += goals_of(config, speed)
        if "two floors at once" in speed:
            limit = paired(speed["two floors at once"], speed["floor"])
            context.say(f"    {config}  two floors at once do {limit:.2f} times the work of one: "
                        "what two cores of this machine allow")
    return rows, goals
