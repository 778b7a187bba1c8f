#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gpu.py - training speed on one GPU through the real command line (make gpu-bench).

In turn, once per round: dsrun with launch.device cuda, then PyTorch where it is installed with CUDA
(peers/torch_gpu.py: compiled, fused AdamW, its own attention).  A round's sample is the median over
the measured steps of a run.  Writes bench/results/<date>-<gpu>.json with every sample.  Without a
GPU it says so in one line and ends with 1.
"""
import argparse
import array
import datetime
import json
import os
import random
import re
import statistics
import sys
import tempfile

from common import HERE, Failed, machine, paired, run, run_json

# A goal is in tokens/s on an H200.  llm.c's padded vocabulary; Llama 3.2's own.
SHAPES = {
    "gpt2-124m": {"arch": "gpt2", "layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 3072,
                  "vocab": 50304, "context": 1024, "batch": 64, "micro": 64, "goal": 550_000},
    "llama-3.2-1b": {"arch": "llama", "layers": 16, "hidden": 2048, "heads": 32, "kv_heads": 8, "ffn": 8192,
                     "vocab": 128256, "context": 4096, "batch": 8, "micro": 2, "goal": 58_000},
}
MORE_THAN_TORCH = 1.15
WARM, STEPS, LIMIT_S = 3, 12, 150
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


def dsrun(build, shape, steps=WARM + STEPS):
    """tokens/s of each measured step."""
    dice = random.Random(1)
    narrow = shape["vocab"] <= 1 << 16
    count = (steps + 2) * shape["batch"] * shape["context"] + 1
    with tempfile.TemporaryDirectory() as folder:
        tokens, path = folder + ("/tokens.bin" if narrow else "/tokens.u32.bin"), folder + "/job.yaml"
        with open(tokens, "wb") as file:
            array.array("H" if narrow else "I", dice.choices(range(shape["vocab"]), k=count)).tofile(file)
        with open(path, "w", encoding="utf-8") as file:
            file.write(JOB.format(tokens=tokens, steps=steps, **shape))
        run([os.path.abspath(build) + "/bin/dsrun", "--slots", "1", "--run-dir", folder + "/run", path],
            limit_s=LIMIT_S)
        with open(folder + "/run/metrics.jsonl", encoding="utf-8") as file:
            speeds = [r["tokens_per_s"] for r in map(json.loads, file) if "tokens_per_s" in r]
    if len(speeds) != steps:
        raise Failed(f"dsrun wrote {len(speeds)} steps instead of {steps}")
    return speeds[min(WARM, steps - 1):]


def torch(python, shape):
    ran = run_json([python, HERE + "/peers/torch_gpu.py", "--warm", str(WARM), "--steps", str(STEPS),
                    json.dumps(shape)], limit_s=LIMIT_S)
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


def bench(args, peer):
    results = {}
    for name, shape in SHAPES.items():
        samples = {"dsrun": [], "torch": []}
        for _ in range(args.rounds):
            samples["dsrun"].append(statistics.median(dsrun(args.build, shape)))
            if peer is not None:
                samples["torch"].append(statistics.median(torch(args.python, shape)))
        ours = statistics.median(samples["dsrun"])
        print(f"{name:<14} {ours:>10.0f} tokens/s, {ours / shape['goal']:.2f} of the goal on an H200", flush=True)
        ratio = paired(samples["dsrun"], samples["torch"]) if peer is not None else None
        if ratio is not None:
            print(f"{'':<14} {ratio:>10.2f} times PyTorch {peer}, the goal is {MORE_THAN_TORCH}", flush=True)
        results[name] = {"samples": samples, "tokens_per_s": ours, "goal": shape["goal"], "over_torch": ratio}
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the one that has PyTorch")
    args = parser.parse_args()
    device = gpu()
    if device is None:
        sys.exit("gpu-bench: there is no GPU on this machine, nothing was measured")
    peer = torch_version(args.python)
    if peer is None:
        print(f"not measured: PyTorch, '{args.python}' has none that sees the GPU")
    print("not measured: kernels by themselves")
    try:
        results = bench(args, peer)
    except Failed as failed:
        sys.exit(f"gpu-bench: {failed}")
    word = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    path = f"{HERE}/results/{datetime.date.today().isoformat()}-{word}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"gpu": device, "machine": machine(), "torch": peer, "warm": WARM, "steps": STEPS,
                   "step": results}, file, indent=1)
        file.write("\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
