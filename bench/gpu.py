#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gpu.py - training speed on one GPU through the real command line (make gpu-bench).

In phases, so that what comes first is known whatever becomes of the rest: dsrun with launch.device cuda on
each model; PyTorch, where it is installed with CUDA, on the same tokens of real text (peers/torch_gpu.py: compiled,
fused AdamW, its fastest attention; text.py), by turns; a step of each operation by operation (gpu_profile.py);
kernels by themselves (gpu_kernels.py); dsrun again, with the matrix products that the kernels' part measured.
A sample is the median over the measured steps of a run.
After each phase bench/results/<date>-<gpu>.json is written, with every sample, and at the end the table of
bench/README.md.  What there is no time for is named.  Without a GPU it says so and ends with 1.  --shrink
makes everything smaller, --doubles does without a GPU: a rehearsal (make gpu-check-rehearsal).
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

import gpu_kernels
import gpu_profile
import text
from common import HERE, Failed, paired, run, run_json
from common import machine as machine_of

sys.path.insert(0, str(pathlib.Path(HERE).parent / "tests" / "gpu"))
import machine  # noqa: E402  (found through the path above)

# A goal is in tokens/s on an H200.  llm.c's padded vocabulary; Llama 3.2's own.
SHAPES = {
    "gpt2-124m": {"arch": "gpt2", "layers": 12, "hidden": 768, "heads": 12, "kv_heads": 12, "ffn": 3072,
                  "vocab": 50304, "context": 1024, "batch": 64, "micro": 64, "goal": 550_000},
    "llama-3.2-1b": {"arch": "llama", "layers": 16, "hidden": 2048, "heads": 32, "kv_heads": 8, "ffn": 8192,
                     "vocab": 128256, "context": 4096, "batch": 8, "micro": 2, "goal": 58_000},
}
MORE_THAN_TORCH = 1.15
WARM, STEPS, LIMIT_S, LEAST_S = 3, 12, 120, 10
LAST_LINES = 30  # of what failed, to the terminal
PROFILED = 4  # steps of the run that has a profile; it is of the third
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


def train(args, shape, tokens, limit_s, env, folder, steps, *words):
    """A run in `folder`."""
    path = folder + "/job.yaml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(JOB.format(tokens=tokens, steps=steps, **shape))
    run([os.path.abspath(args.build) + "/bin/dsrun", "--slots", "1", "--run-dir", folder + "/run", path, *words],
        env=env, limit_s=limit_s)


def dsrun(args, shape, tokens, limit_s, env):
    """tokens/s of each measured step."""
    steps = WARM + STEPS
    with tempfile.TemporaryDirectory() as folder:
        train(args, shape, tokens, limit_s, env, folder, steps)
        with open(folder + "/run/metrics.jsonl", encoding="utf-8") as file:
            speeds = [r["tokens_per_s"] for r in map(json.loads, file) if "tokens_per_s" in r]
    if len(speeds) != steps:
        raise Failed(f"dsrun wrote {len(speeds)} steps instead of {steps}")
    return speeds[WARM:]


def torch(python, shape, tokens, limit_s):
    ran = run_json([python, HERE + "/peers/torch_gpu.py", "--warm", str(WARM), "--steps", str(STEPS),
                    "--tokens", tokens, json.dumps(shape)], limit_s=limit_s)
    return [shape["batch"] * shape["context"] / ms * 1e3 for ms in ran["step_ms"]]


def torch_version(python, limit_s):
    return run([python, "-c", "import torch; torch.zeros(1).cuda(); print(torch.__version__)"], limit_s=limit_s).strip()


class Clock:
    """How long the next program may take; none is started that could not end."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self, most=LIMIT_S):
        left = self.end - time.monotonic()
        if left < LEAST_S:
            raise Failed("no time is left")
        return min(most, left)


class Bench:
    """What is measured, phase by phase."""

    def __init__(self, args, out, facts):
        self.args, self.out, self.clock, self.env = args, out, Clock(args.seconds), {}
        self.tokens, self.missing, self.rows = {}, [], []
        self.shapes = {name: shrunk(shape, args.shrink) for name, shape in SHAPES.items()}
        self.results = {"gpu": facts, "machine": machine_of(), "torch": None, "shrink": args.shrink, "warm": WARM,
                        "steps": STEPS, "step": {}, "profile": {}, "kernels": {}, "missing": self.missing}
        for name, shape in SHAPES.items():
            self.results["step"][name] = {"samples": {"dsrun": [], "torch": [], "measured products": []},
                                          "goal": shape["goal"], "tokens_per_s": None, "over_torch": None}

    def text(self, folder):
        for name, shape in self.shapes.items():
            path = f"{folder}/{name}{'.bin' if shape['vocab'] <= 1 << 16 else '.u32.bin'}"
            text.write(path, (WARM + STEPS + 2) * shape["batch"] * shape["context"] + 1, shape["vocab"])
            self.tokens[name] = path

    def save(self):
        with open(self.out, "w", encoding="utf-8") as file:
            json.dump(self.results, file, indent=1)
            file.write("\n")

    def say_why(self, what, failed):
        """With the last lines of what was said; all of it goes beside the results."""
        line = f"{what}: {failed!r}"
        said = "\n".join(filter(None, (getattr(failed, "output", ""), getattr(failed, "errors", "")))).rstrip()
        print("\n".join([f"not measured: {line}", *said.splitlines()[-LAST_LINES:]]), flush=True)
        with open(os.path.splitext(self.out)[0] + "-failed.log", "a", encoding="utf-8") as file:
            file.write(f"{line}\n{said}\n\n")
        return line

    def miss(self, what, failed):
        self.missing.append(self.say_why(what, failed))

    def torch(self, python):
        """Its version; None where it is not installed or sees no GPU."""
        try:
            self.results["torch"] = torch_version(python, self.clock.left())
        except Failed as failed:
            self.say_why(f"PyTorch of '{python}'", failed)
        return self.results["torch"]

    def train(self, who, runner):
        """A sample more of each model."""
        for name, shape in self.shapes.items():
            began, result = time.monotonic(), self.results["step"][name]
            try:
                samples = runner(shape, self.tokens[name], self.clock.left())
                result["samples"][who].append(statistics.median(samples))
                print(f"{name:<14} {result['samples'][who][-1]:>10.0f} tokens/s, {who}, the run took "
                      f"{time.monotonic() - began:.0f} s", flush=True)
            except (Failed, OSError, ValueError, KeyError) as failed:
                self.miss(f"{name}, {who}", failed)
        self.save()

    def profile(self):
        for name, shape in self.shapes.items():
            try:
                with tempfile.TemporaryDirectory() as folder:
                    train(self.args, shape, self.tokens[name], self.clock.left(), self.env, folder, PROFILED,
                          "log.trace=kernels")
                    self.results["profile"][name] = gpu_profile.read(folder + "/run")
            except (Failed, OSError, ValueError) as failed:
                self.miss(f"{name}, profile", failed)
        print(self.profile_text(), flush=True)
        self.save()

    def profile_text(self):
        """Tables of what there is by now."""
        profiles, tables = self.results["profile"], []
        if profiles:
            rates = gpu_profile.Rates(profiles.values(), self.results["kernels"])
            self.results["bounds"] = {"flops": rates.product, "bytes_per_s": rates.copy}
            for name, profile in profiles.items():
                samples = self.results["step"][name]["samples"]["dsrun"]
                tables.append(gpu_profile.table(name, profile, self.shapes[name]["vocab"], rates,
                                                statistics.median(samples) if samples else None))
        return "\n\n".join(tables)

    def kernels(self, python, products):
        self.results["kernels"], self.rows, missing = gpu_kernels.bench(
            gpu_kernels.Programs(self.args.build, self.args.shrink, self.env), self.clock.left, python, products)
        for what, failed in missing:
            self.miss(what, failed)
        print(gpu_kernels.table(self.rows), flush=True)
        self.save()

    def verdict(self):
        for name, result in self.results["step"].items():
            samples = result["samples"]
            pairs = min(len(samples["dsrun"]), len(samples["torch"]))
            if samples["dsrun"]:
                ours = result["tokens_per_s"] = statistics.median(samples["dsrun"])
                print(f"{name:<14} {ours:>10.0f} tokens/s, {ours / result['goal']:.2f} of the goal on an H200", flush=True)
            if pairs > 0:
                ratio = result["over_torch"] = paired(samples["dsrun"][:pairs], samples["torch"][:pairs])
                print(f"{'':<14} {ratio:>10.2f} times PyTorch {self.results['torch']}, the goal is {MORE_THAN_TORCH}",
                      flush=True)
        if self.results["kernels"]:
            print(self.profile_text(), flush=True)  # by the bounds that are known now
        self.save()


def shrunk(shape, by):
    """A model like it, so much smaller."""
    if by == 1:
        return shape
    heads = 2
    return {**shape, "layers": 1, "hidden": 64 * heads, "heads": heads, "kv_heads": 1 if shape["arch"] == "llama" else heads,
            "ffn": 128, "vocab": max(shape["vocab"] // by, 8), "context": max(shape["context"] // by, 16), "batch": 2,
            "micro": 1}


def training_table(results):
    lines = ["| model | tokens/s | of the goal | times PyTorch |", "|---|---|---|---|"]
    for name, r in results.items():
        ours, ratio = r["tokens_per_s"], r["over_torch"]
        lines.append(f"| {name} | {'' if ours is None else f'{ours:.0f}'} | "
                     f"{'' if ours is None else format(ours / r['goal'], '.2f')} | {'' if ratio is None else f'{ratio:.2f}'} |")
    return "\n".join(lines)


def measure(bench, args):
    """All phases; the folder holds what they share."""
    with tempfile.TemporaryDirectory() as folder:
        products = folder + "/products"
        bench.text(folder)
        peer = bench.torch(args.python)
        for _ in range(args.rounds):
            bench.train("dsrun", lambda shape, tokens, left: dsrun(args, shape, tokens, left, bench.env))
            if peer:
                bench.train("torch", lambda shape, tokens, left: torch(args.python, shape, tokens, left))
        bench.profile()
        bench.kernels(args.python if peer else None, products)
        chosen = {**bench.env, "DSRUN_CUDA_PRODUCTS": products}
        bench.train("measured products", lambda shape, tokens, left: dsrun(args, shape, tokens, left, chosen))
        bench.verdict()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the one that has PyTorch")
    parser.add_argument("--seconds", type=float, default=520.0, help="all of it must end in this time")
    parser.add_argument("--out", help="the folder of the results; bench/results, and bench/README.md is written anew")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--doubles", action="store_true", help="a rehearsal without a GPU")
    args = parser.parse_args()
    build = pathlib.Path(args.build).resolve()
    if args.doubles:
        os.environ["LD_LIBRARY_PATH"] = str(build / "fakes" / "libexec")
        os.environ["DSRUN_LIBEXEC"] = str(build / "fakes" / "libexec")
    why = machine.why_no_gpu()
    if why:
        sys.exit(f"gpu-bench: {why}, nothing was measured")
    facts, folder = machine.Gpu().facts(), args.out or HERE + "/results"
    os.makedirs(folder, exist_ok=True)
    word = re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-")
    today = datetime.date.today().isoformat()
    bench = Bench(args, f"{folder}/{today}-{word}.json", facts)
    if not args.doubles:  # PyTorch has libraries of its own
        path, lines = machine.library_path(build)
        bench.env = {"LD_LIBRARY_PATH": path}
        print("\n".join(lines), flush=True)
    print(f"{facts}", flush=True)
    measure(bench, args)
    if args.out is None:
        gpu_kernels.into_readme(f"{facts['name']}, {today}\n\n{training_table(bench.results['step'])}\n\n"
                                f"{bench.profile_text()}\n\n{gpu_kernels.table(bench.rows)}")
    print(f"written: {bench.out}" + ("" if args.out else " and the table of bench/README.md"))
    sys.exit(1 if bench.missing else 0)


if __name__ == "__main__":
    main()
