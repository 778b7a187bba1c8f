#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gpu.py - training speed on one GPU through the real command line (make gpu-bench).

First kernels by themselves (gpu_kernels.py).  Then in turn, once per round: dsrun with launch.device
cuda, then PyTorch where it is installed with CUDA (peers/torch_gpu.py: compiled, fused AdamW, its own
attention), both on the same tokens of real text (text.py).  A round's sample is the median over the
measured steps of a run.  Writes bench/results/<date>-<gpu>.json with every sample, and the table of
bench/README.md.  What there is no time for is named.  Without a GPU it says so and ends with 1.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import sys
import tempfile
import time

import gpu_kernels
import text
from common import HERE, Failed, machine, paired, run, run_json

# A goal is in tokens/s on an H200.  llm.c's padded vocabulary; Llama 3.2's own.
SHAPES = {
    "gpt2-124m": {"arch": "gpt2", "layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 3072,
                  "vocab": 50304, "context": 1024, "batch": 64, "micro": 64, "goal": 550_000},
    "llama-3.2-1b": {"arch": "llama", "layers": 16, "hidden": 2048, "heads": 32, "kv_heads": 8, "ffn": 8192,
                     "vocab": 128256, "context": 4096, "batch": 8, "micro": 2, "goal": 58_000},
}
MORE_THAN_TORCH = 1.15
WARM, STEPS, LIMIT_S, LEAST_S = 3, 12, 150, 20
JOB = """\
name: gpu
model: {{arch: {arch}, layers: {layers}, hidden: {hidden}, heads: {heads}, kv_heads: {kv_heads}, ffn: {ffn}, \
vocab: {vocab}, context: {context}, tie_embeddings: true}}
data: {{train: [{tokens}], format: tokens}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}}}
optim: {{lr: 3.0e-4, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0}}
schedule: {{kind: constant, warmup: 0}}
precision: {{compute: bf16}}
checkpoint: {{every: 0}}
log: {{sinks: [jsonl]}}
launch: {{device: cuda}}
"""


def dsrun(build, shape, tokens, limit_s):
    """tokens/s of each measured step."""
    steps = WARM + STEPS
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/job.yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(JOB.format(tokens=tokens, steps=steps, **shape))
        run([os.path.abspath(build) + "/bin/dsrun", "--slots", "1", "--run-dir", folder + "/run", path],
            limit_s=limit_s)
        with open(folder + "/run/metrics.jsonl", encoding="utf-8") as file:
            speeds = [r["tokens_per_s"] for r in map(json.loads, file) if "tokens_per_s" in r]
    if len(speeds) != steps:
        raise Failed(f"dsrun wrote {len(speeds)} steps instead of {steps}")
    return speeds[WARM:]


def torch(python, shape, tokens, limit_s):
    ran = run_json([python, HERE + "/peers/torch_gpu.py", "--warm", str(WARM), "--steps", str(STEPS),
                    "--tokens", tokens, json.dumps(shape)], limit_s=limit_s)
    return [shape["batch"] * shape["context"] / ms * 1e3 for ms in ran["step_ms"]]


def torch_version(python):
    """None where it is not installed or sees no GPU."""
    try:
        return run([python, "-c", "import torch; torch.zeros(1).cuda(); print(torch.__version__)"]).strip()
    except Failed:
        return None


def gpu():
    """Name and driver of the first GPU; None where there is none."""
    try:
        line = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    except Failed:
        return None
    name, driver, memory = (word.strip() for word in line.splitlines()[0].split(","))
    return {"name": name, "driver": driver, "memory": memory}


class Clock:
    """How long the next program may take; none is started that could not end."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self, most=LIMIT_S):
        left = self.end - time.monotonic()
        if left < LEAST_S:
            raise Failed("no time is left")
        return min(most, left)


def train(args, clock, peer, name, tokens, results, missing):
    """Fills results[name] with what could be measured."""
    shape, samples = SHAPES[name], {"dsrun": [], "torch": []}
    for _ in range(args.rounds):
        try:
            samples["dsrun"].append(statistics.median(dsrun(args.build, shape, tokens, clock.left())))
            if peer is not None:
                samples["torch"].append(statistics.median(torch(args.python, shape, tokens, clock.left())))
        except Failed as failed:
            missing.append(f"{name}: {failed}")
    results[name] = {"samples": samples, "goal": shape["goal"], "tokens_per_s": None, "over_torch": None}
    if samples["dsrun"]:
        ours = results[name]["tokens_per_s"] = statistics.median(samples["dsrun"])
        print(f"{name:<14} {ours:>10.0f} tokens/s, {ours / shape['goal']:.2f} of the goal on an H200", flush=True)
    pairs = min(len(samples["dsrun"]), len(samples["torch"]))
    if pairs > 0:
        ratio = results[name]["over_torch"] = paired(samples["dsrun"][:pairs], samples["torch"][:pairs])
        print(f"{'':<14} {ratio:>10.2f} times PyTorch {peer}, the goal is {MORE_THAN_TORCH}", flush=True)


def training(args, clock, peer, missing):
    results = {}
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            tokens = folder + ("/tokens.bin" if shape["vocab"] <= 1 << 16 else "/tokens.u32.bin")
            text.write(tokens, (WARM + STEPS + 2) * shape["batch"] * shape["context"] + 1, shape["vocab"])
            train(args, clock, peer, name, tokens, results, missing)
    return results


def training_table(results):
    lines = ["| model | tokens/s | of the goal | times PyTorch |", "|---|---|---|---|"]
    for name, r in results.items():
        ours, ratio = r["tokens_per_s"], r["over_torch"]
        lines.append(f"| {name} | {'' if ours is None else f'{ours:.0f}'} | "
                     f"{'' if ours is None else format(ours / r['goal'], '.2f')} | {'' if ratio is None else f'{ratio:.2f}'} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the one that has PyTorch")
    parser.add_argument("--seconds", type=float, default=520.0, help="all of it must end in this time")
    args = parser.parse_args()
    clock, device = Clock(args.seconds), gpu()
    if device is None:
        sys.exit("gpu-bench: there is no GPU on this machine, nothing was measured")
    peer = torch_version(args.python)
    if peer is None:
        print(f"not measured: PyTorch, '{args.python}' has none that sees the GPU")
    kernels, rows, missing = gpu_kernels.bench(args.build, clock.left, args.python if peer else None)
    print(gpu_kernels.table(rows), flush=True)
    steps = training(args, clock, peer, missing)
    for line in missing:
        print(f"not measured: {line}")
    word = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    today = datetime.date.today().isoformat()
    path = f"{HERE}/results/{today}-{word}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"gpu": device, "machine": machine(), "torch": peer, "warm": WARM, "steps": STEPS,
                   "step": steps, "kernels": kernels, "missing": missing}, file, indent=1)
        file.write("\n")
    gpu_kernels.into_readme(f"{device['name']}, {today}\n\n{training_table(steps)}\n\n{gpu_kernels.table(rows)}")
    print(f"written: {path} and the table of bench/README.md")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
