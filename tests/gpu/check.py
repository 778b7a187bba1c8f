#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""check - what must hold on a GPU, with the programs of a build that has the plug-in (make gpu-check).

Needs nothing but Python's standard library and the build folder.  Without a GPU it says so in one line
and ends with 1: a skipped check is no check.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness as h  # noqa: E402  (found through the path above)
import machine  # noqa: E402  (beside this file)

PLUGIN = h.BUILD / "libexec" / "dsrun" / "dsrun-cuda.so"
CASES = h.ROOT / "tests" / "reference"
LIMITS = {"fp32": 1e-4, "bf16": 1e-2}
KERNELS_S = 120
JOB = """\
name: gpu
model: {{arch: {arch}, init: {{from: {case}}}}}
data: {{train: [{case}/tokens.safetensors], format: samples, order: sequential}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: 1, sequence: {seq}}}
optim: {{name: adamw, lr: {lr}, betas: {betas}, eps: {eps}, weight_decay: {weight_decay}, clip: {clip}}}
schedule: {{kind: cosine, warmup: {warmup}, steps: {total}, min_lr: {min_lr}}}
precision: {{compute: {compute}}}
zero: {{stage: {stage}}}
checkpoint: {{every: 2, keep: 2}}
launch: {{device: cuda}}
"""


def job_of(name, compute="fp32", stage=0):
    case = CASES / name
    job = json.loads((case / "job.json").read_text())
    o, s = job["optimizer"], job["schedule"]
    path = h.work() / f"{name}-{compute}-{stage}.yaml"
    path.write_text(JOB.format(
        arch=json.loads((case / "config.json").read_text())["model_type"], case=case, steps=job["steps"],
        batch=job["micro_batches"] * job["batch"], seq=job["seq"], lr=o["lr"], betas=o["betas"], eps=o["eps"],
        weight_decay=o["weight_decay"], clip=job["clip"], warmup=s["warmup_steps"], total=s["total_steps"],
        min_lr=s["min_lr"], compute=compute, stage=stage))
    return path, json.loads((case / "expected.json").read_text())


def ended(run, command, timeout):
    """run(), or how it would have ended: what hangs is one point that failed, and the others are still run."""
    try:
        return run()
    except subprocess.TimeoutExpired as late:
        said = [text.decode(errors="replace") if isinstance(text, bytes) else text or ""
                for text in (late.stdout, late.stderr)]
        h.reap()
        return subprocess.CompletedProcess(command, 124, said[0], f"{said[1]}\nnot done after {timeout} s")


def train(path, run, ranks=1, timeout=90, **env):
    return ended(lambda: h.dsrun("--slots", ranks, "--run-dir", h.work() / run, path, timeout=timeout,
                                 DSRUN_CUDA_SHARE="1", **env), path, timeout)


def reference(name, compute):
    path, want = job_of(name, compute)
    texts = []
    for turn in ("a", "b"):
        run = f"{name}-{compute}-{turn}"
        ran = train(path, run)
        if not h.ok(ran.returncode == 0, f"{run}: the job ends with 0", ran.stdout + ran.stderr):
            return
        got = h.metrics(h.work() / run)
        worst = max(abs(g["loss"] - w["loss"]) / abs(w["loss"]) for g, w in zip(got, want))
        h.ok(len(got) == len(want) and worst < LIMITS[compute], f"{run}: loss within {LIMITS[compute]:g}", worst)
        worst = max(abs(g["grad_norm"] - w["grad_norm"]) / abs(w["grad_norm"]) for g, w in zip(got, want))
        h.ok(worst < LIMITS[compute], f"{run}: norm within {LIMITS[compute]:g}", worst)
        texts.append(h.metric_texts(h.work() / run))
    h.ok(texts[0] == texts[1], f"{name} {compute}: the same bits run to run")


def graphs():
    """Passes as CUDA graphs, and without: the same bits."""
    path, _ = job_of("gpt2-tiny")
    ran = [train(path, f"graphs-{on}", DSRUN_CUDA_GRAPHS=on) for on in ("1", "0")]
    said = ran[0].stdout + ran[0].stderr
    if h.ok(all(r.returncode == 0 for r in ran) and "without CUDA graphs" not in said,
            "graphs: recorded, and nothing is said of them", said):
        h.ok(h.metric_texts(h.work() / "graphs-1") == h.metric_texts(h.work() / "graphs-0"),
             "graphs: the same bits as without")


def memory():
    """What a job of some GiB takes of the device, beside what its plan says."""
    path, text = h.work() / "memory.yaml", h.work() / "memory.txt"
    text.write_text(h.TEXT * 1000)
    path.write_text(f"""\
name: memory
model: {{arch: gpt2, layers: 12, hidden: 768, heads: 12, context: 1024}}
data: {{train: [{text}], format: text}}
train: {{steps: 3, global_batch: 16, micro_batch: 16, sequence: 1024}}
precision: {{compute: bf16}}
checkpoint: {{every: 0}}
launch: {{device: cuda}}
""")
    ran = train(path, "memory")
    found = [e for e in map(json.loads, (h.work() / "memory" / "events.jsonl").read_text().splitlines())
             if e.get("event") == "memory"] if ran.returncode == 0 else []
    if h.ok(found, "memory: the job ends with 0 and tells what it took", ran.stdout + ran.stderr):
        print(f"# planned {found[0]['planned_bytes']} bytes, taken {found[0]['device_bytes']}")
        ratio = found[0]["device_bytes"] / found[0]["planned_bytes"]
        h.ok(abs(ratio - 1) < 0.03, "memory: taken within 3% of planned", ratio)
    attention(path)


def attention(path):
    """A job of a real shape by cuDNN and by our own kernels: bits from run to run, and what both lose."""
    losses = {}
    for way in ("cudnn", "own"):
        texts = []
        for turn in ("a", "b"):
            run = f"attention-{way}-{turn}"
            ran = train(path, run, DSRUN_CUDA_ATTENTION=way)
            if way == "cudnn" and any(words in ran.stderr for words in ("cannot be used", "for this GPU")):
                h.skip("attention by cuDNN", ran.stderr.strip())
                return
            if h.ok(ran.returncode == 0, f"{run}: the job ends with 0", ran.stdout + ran.stderr):
                texts.append(h.metric_texts(h.work() / run))
                losses[way] = [g["loss"] for g in h.metrics(h.work() / run)]
        h.ok(len(texts) == 2 and texts[0] == texts[1], f"attention by {way}: the same bits run to run", texts)
    if len(losses) == 2:
        apart = max(abs(a - b) / b for a, b in zip(losses["cudnn"], losses["own"]))
        h.ok(apart < LIMITS["bf16"], f"attention by both: losses within {LIMITS['bf16']:g}", losses)


def zero(ranks):
    """Ranks that share the GPU, over real NCCL."""
    path, want = job_of("gpt2-tiny")
    for stage in (0, 1, 2, 3):
        path, want = job_of("gpt2-tiny", stage=stage)
        run = f"zero{stage}-{ranks}"
        ran = train(path, run, ranks)
        if not h.ok(ran.returncode == 0, f"ZeRO {stage} on {ranks} ranks: the job ends with 0",
                    ran.stdout + ran.stderr):
            continue
        got = h.metrics(h.work() / run)
        worst = max(abs(g["loss"] - w["loss"]) / abs(w["loss"]) for g, w in zip(got, want))
        h.ok(worst < LIMITS["fp32"], f"ZeRO {stage} on {ranks} ranks: loss within {LIMITS['fp32']:g}", worst)


def killed():
    """A rank that is killed ends the job; run again, it goes on to the same end."""
    path, _ = job_of("gpt2-tiny", stage=2)
    whole = train(path, "killed-whole", 2)
    job = h.start("--slots", 2, "--run-dir", h.work() / "killed", path, DSRUN_CUDA_SHARE="1")
    end = time.monotonic() + 60
    while time.monotonic() < end and not list((h.work() / "killed").glob("checkpoints/step-*/manifest.json")):
        time.sleep(0.02)
    workers = [pid for pid, line in h.processes().items() if "dsrun-worker" in line]
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    code = job.wait(timeout=120)
    print(f"# the killed job ended with {code}; {len(workers)} workers were there")
    again = train(path, "killed", 2)
    h.ok(whole.returncode == 0 and again.returncode == 0, "killed: the next run ends the job", again.stderr)
    bits = h.metric_texts(h.work() / "killed-whole")
    h.ok(bits and h.metric_texts(h.work() / "killed") == bits, "killed: the same bits as without", bits)


def kernels():
    """Every program of make gpu-tests; 77: the driver does not map the host's memory."""
    programs = sorted(p for p in (h.BUILD / "gpu").glob("test_*") if p.suffix == "" and os.access(p, os.X_OK))
    if not programs:
        h.skip("kernel tests on the device", f"there are none in '{h.BUILD}/gpu', make gpu-tests builds them")
    tries = [(p, p.name, {}) for p in programs]
    tries += [(p, f"{p.name} without cuDNN", {"DSRUN_CUDA_ATTENTION": "own"})
              for p in programs if p.name == "test_attention"]
    for program, name, env in tries:
        ran = ended(lambda p=program, e=env: subprocess.run(
            [p], capture_output=True, text=True, errors="replace", check=False, timeout=KERNELS_S,
            env=h.environment(DSRUN_TEST_PLUGIN=str(PLUGIN), **e)), program, KERNELS_S)
        if ran.returncode == 77:
            h.skip(f"kernels: {name}", ran.stderr.strip())
        else:
            h.ok(ran.returncode == 0, f"kernels: {name}", ran.stderr + ran.stdout[-500:])


def sanitizer():
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        h.skip("compute-sanitizer", "it is not installed")
        return
    folder = h.work() / "libexec"
    folder.mkdir()
    for name in ("dsrun-agent", "dsrun-cuda.so"):
        shutil.copy(h.BUILD / "libexec" / "dsrun" / name, folder)
    (folder / "dsrun-worker").write_text(
        f"#!/bin/sh\nexec '{tool}' --error-exitcode 86 '{h.BUILD}/libexec/dsrun/dsrun-worker' \"$@\"\n")
    (folder / "dsrun-worker").chmod(0o755)
    path, _ = job_of("gpt2-tiny")
    ran = train(path, "sanitizer", DSRUN_LIBEXEC=str(folder))
    h.ok(ran.returncode == 0, "compute-sanitizer: no fault in the reference case", ran.stdout + ran.stderr)


missing = machine.why_no_gpu()
if missing:
    sys.exit(f"gpu-check: {missing}, nothing was checked")
if not PLUGIN.exists():
    sys.exit(f"gpu-check: there is no '{PLUGIN}', build it with make CUDA_HOME=..., nothing was checked")
folders, where = machine.library_path(h.BUILD)
if folders:
    os.environ["LD_LIBRARY_PATH"] = folders
for line in where:
    print(f"# {line}")
kernels()
for reference_case in ("gpt2-tiny", "llama-tiny"):
    for precision in ("fp32", "bf16"):
        reference(reference_case, precision)
graphs()
memory()
for count in (2, 4):
    zero(count)
killed()
sanitizer()
h.skip("one wait for the device a step", "counted with the fake runtime only, by tests/e2e/cuda.py")
h.done()
