# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""jobs - what the parts of check.py share: what doubles change, the time that is left, the log, jobs and their results.

A part finds `setting`, `clock` and `log` here as check.py has begun them.
"""
import json
import subprocess
import sys
import time

import harness as h

CASES = h.ROOT / "tests" / "reference"
LIMITS = {"fp32": 1e-4, "bf16": 1e-2}
PATIENCE_S = 15  # for a rank that does not come; NCCL's start with four ranks on one GPU is in it
JOB = """\
name: gpu
model: {{arch: {arch}, init: {{from: {case}}}}}
data: {{train: [{case}/tokens.safetensors], format: samples, order: sequential}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}, sequence: {seq}}}
optim: {{name: adamw, lr: {lr}, betas: {betas}, eps: {eps}, weight_decay: {weight_decay}, clip: {clip}}}
schedule: {{kind: cosine, warmup: {warmup}, steps: {total}, min_lr: {min_lr}}}
precision: {{compute: {compute}}}
zero: {{stage: {stage}}}
checkpoint: {{every: {every}, keep: 2}}
launch: {{device: cuda, threads: 1}}
"""
MEMORY = """\
name: memory
model: {{arch: gpt2, layers: {layers}, hidden: {hidden}, heads: {heads}, context: {context}}}
data: {{train: [{text}], format: text}}
train: {{steps: 3, global_batch: {batch}, micro_batch: {micro}, sequence: {context}}}
precision: {{compute: bf16}}
zero: {{stage: {stage}}}
checkpoint: {{every: 0}}
launch: {{device: cuda, threads: 1}}
"""


class Setting:
    """What is different with doubles."""

    def choose(self, doubles):
        self.doubles = doubles
        self.libexec = h.BUILD / ("fakes/libexec" if doubles else "libexec/dsrun")
        self.plugin = self.libexec / "dsrun-cuda.so"
        self.steps = 2 if doubles else 6  # of a reference case
        self.long = 6 if doubles else 30
        self.middling = 6 if doubles else 10  # steps of ranks that take turns on the GPU
        self.tiny = 90.0 if doubles else 25.0  # seconds, of a job of a reference case
        self.patience = 90 if doubles else PATIENCE_S
        self.nccl = "WARN" if doubles else "INFO"
        self.precisions = {"gpt2-tiny": ("fp32",), "llama-tiny": ("bf16",), "mixtral-tiny": ("fp32",)} if doubles else \
            {name: ("fp32", "bf16") for name in ("gpt2-tiny", "llama-tiny", "mixtral-tiny", "qwen2-tiny", "qwen3-moe-tiny", "mistral-tiny", "phi3-tiny", "olmo2-tiny", "gemma3-tiny", "longrope-tiny", "smollm3-tiny", "granite-tiny", "pythia-tiny", "neox-tiny")}
        self.micro = 2 if doubles else 1
        self.at_once = 2 if doubles else 4
        self.program = 300.0 if doubles else 105.0  # seconds, of one test of kernels; plans of cuDNN are in it
        self.model = dict(layers=1, hidden=64, heads=1, context=32, batch=2, micro=1) if doubles else \
            dict(layers=12, hidden=768, heads=12, context=1024, batch=16, micro=16)


class Clock:
    """Of one part; nothing that it starts outlives it."""

    def begin(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self, most=600.0):
        return max(min(most, self.end - time.monotonic()), 0.5)


class Log:
    """Standard output, and all of what failed, in a file too."""

    def open(self, path):
        self.out, self.file = sys.stdout, open(path, "w", encoding="utf-8")  # for as long as this process is

    def write(self, text):
        self.out.write(text)
        self.file.write(text)

    def flush(self):
        self.out.flush()
        self.file.flush()

    def whole(self, title, text):
        self.file.write("".join(f"#     {line}\n" for line in [title, *text.splitlines()]))
        self.file.flush()


setting, clock, log = Setting(), Clock(), Log()


def job_of(name, compute="fp32", stage=0, steps=None, every=2):
    """A job file of a reference case, and what its steps are to give."""
    case = CASES / name
    job = json.loads((case / "job.json").read_text())
    steps = steps or setting.steps
    o, s = job["optimizer"], job["schedule"]
    path = h.work() / f"{name}-{compute}-{stage}-{steps}-{every}.yaml"
    path.write_text(JOB.format(
        arch=json.loads((case / "config.json").read_text())["model_type"], case=case, steps=steps,
        batch=job["micro_batches"] * job["batch"], micro=setting.micro, seq=job["seq"], lr=o["lr"], betas=o["betas"],
        eps=o["eps"], weight_decay=o["weight_decay"], clip=job["clip"], warmup=s["warmup_steps"],
        total=s["total_steps"], min_lr=s["min_lr"], compute=compute, stage=stage, every=every))
    return path, json.loads((case / "expected.json").read_text())[:steps]


def ended(run, command, timeout, alone=True):
    """run(), or how it would have ended: what hangs is one point that failed, and the others are still run.  With
    `alone` nothing else runs beside it, and all that it left behind is ended."""
    try:
        return run()
    except subprocess.TimeoutExpired as late:
        said = [text.decode(errors="replace") if isinstance(text, bytes) else text or ""
                for text in (late.stdout, late.stderr)]
        if alone:
            h.reap()
        return subprocess.CompletedProcess(command, 124, said[0], f"{said[1]}\nnot done after {timeout:.0f} s")


def environment(**more):
    return dict({"DSRUN_CUDA_SHARE": "1", "DSRUN_LIBEXEC": str(setting.libexec), "NCCL_DEBUG": setting.nccl,
                 "DSRUN_COMM_TIMEOUT": str(setting.patience)}, **more)


def train(path, run, ranks=1, most=None, words=(), **env):
    limit = clock.left(most or setting.tiny)
    began = time.monotonic()
    ran = ended(lambda: h.dsrun("--slots", ranks, "--run-dir", h.work() / run, path, *words, timeout=limit,
                                **environment(**env)), path, limit)
    log.whole(f"{run}: code {ran.returncode} after {time.monotonic() - began:.1f} s", ran.stdout + ran.stderr)
    return ran


def worst(got, want, key):
    return max(abs(g[key] - w[key]) / abs(w[key]) for g, w in zip(got, want))


def events(run, name):
    lines = (h.work() / run / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e.get("event") == name]
