#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""check - what must hold on a GPU, with the programs of a build that has the plug-in (make gpu-check).

Needs nothing but Python's standard library and the build folder.  Without a GPU it says so in one line
and ends with 1: a skipped check is no check.  Parts go on one after another whatever came of the one
before, each with a time limit; the last lines say what came of each.  With --doubles it rehearses itself on
the doubles of tests/fakes/ (make gpu-check-rehearsal): all of it, with smaller jobs, and no GPU.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness as h  # noqa: E402  (found through the path above)
import machine  # noqa: E402  (beside this file)

CASES = h.ROOT / "tests" / "reference"
LIMITS = {"fp32": 1e-4, "bf16": 1e-2}
NORM_LIMITS = {"fp32": 1e-4, "bf16": 5e-2}  # of gradients, as for the CPU
ORDER = 1e-6  # of sums over ranks
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
FP8_LIMIT = 2e-2  # of losses beside those of bf16
ENDLESS = """\
name: endless
model: {{arch: gpt2, layers: 1, hidden: 32, heads: 2, context: 32}}
data: {{train: [{text}], format: text}}
train: {{steps: 1000000, global_batch: 4, micro_batch: 1, sequence: 32}}
zero: {{stage: 2}}
checkpoint: {{every: 0}}
launch: {{device: cuda, threads: 1}}
"""


class Setting:
    """What is different with doubles."""

    def __init__(self, doubles):
        self.doubles = doubles
        self.libexec = h.BUILD / ("fakes/libexec" if doubles else "libexec/dsrun")
        self.plugin = self.libexec / "dsrun-cuda.so"
        self.steps = 2 if doubles else 6  # of a reference case
        self.long = 6 if doubles else 30
        self.middling = 6 if doubles else 10  # steps of ranks that take turns on the GPU
        self.tiny = 90.0 if doubles else 25.0  # seconds, of a job of a reference case
        self.patience = 90 if doubles else PATIENCE_S
        self.nccl = "WARN" if doubles else "INFO"
        self.precisions = {"gpt2-tiny": ("fp32",), "llama-tiny": ("bf16",)} if doubles else \
            {"gpt2-tiny": ("fp32", "bf16"), "llama-tiny": ("fp32", "bf16")}
        self.micro = 2 if doubles else 1
        self.at_once = 2 if doubles else 4
        self.program = 300.0 if doubles else 105.0  # seconds, of one test of kernels; plans of cuDNN are in it
        self.model = dict(layers=1, hidden=64, heads=1, context=32, batch=2, micro=1) if doubles else \
            dict(layers=12, hidden=768, heads=12, context=1024, batch=16, micro=16)


class Clock:
    """Of one part; nothing that it starts outlives it."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self, most=600.0):
        return max(min(most, self.end - time.monotonic()), 0.5)


class Log:
    """Standard output, and all of what failed, in a file too."""

    def __init__(self, path):
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


setting = clock = log = None


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


# --- parts ----------------------------------------------------------------------------------------------------------

def programs_end(part, tries):
    """Each (program, name, environment) with 0.  77: the driver does not map the host's memory; it is asked once more
    when no other program has any, and a GPU that does not do it has not been checked."""
    def one(what):
        (program, name, more), limit, began = what, clock.left(setting.program), time.monotonic()
        env = h.environment(DSRUN_TEST_PLUGIN=str(setting.plugin), FAKE_CUDA_OPEN="1", **more)
        ran = ended(lambda: subprocess.run([program], capture_output=True, text=True, errors="replace", check=False,
                                           timeout=limit, env=env), program, limit, alone=False)
        return what, ran, time.monotonic() - began

    def tell(what, ran, took):
        log.whole(f"{what[1]}: code {ran.returncode} after {took:.1f} s", ran.stdout + ran.stderr)
        h.ok(ran.returncode == 0, f"{part}: {what[1]}, {took:.0f} s", ran.stderr[-1500:] + ran.stdout[-500:])

    again = []
    with concurrent.futures.ThreadPoolExecutor(setting.at_once) as pool:
        for what, ran, took in pool.map(one, tries):
            if ran.returncode == 77:
                again.append(what)
            else:
                tell(what, ran, took)
    for what in again:
        tell(*one(what))


def kernels():
    """Every program of make gpu-tests but that of FP8, which not every GPU has."""
    programs = sorted(p for p in (h.BUILD / "gpu").glob("test_*")
                      if p.suffix == "" and p.name != "test_fp8" and os.access(p, os.X_OK))
    if not programs:
        h.ok(False, "kernels: there are programs", f"none in '{h.BUILD}/gpu', make gpu-tests builds them")
    tries = [(p, p.name, {}) for p in programs]
    tries += [(p, f"{p.name} without cuDNN", {"DSRUN_CUDA_ATTENTION": "own"})
              for p in programs if p.name == "test_attention"]
    # Gradients of biases are cuBLASLt's only where it was measured that they are faster there.
    tries += [(p, f"{p.name} measured", {"DSRUN_CUDA_PRODUCTS": str(h.work() / "products-of-tests")})
              for p in programs if p.name == "test_epilogue"]
    programs_end("kernels", tries)


def reference():
    """Loss and norm of each step against float64, and the same bits run to run."""
    for name, precisions in setting.precisions.items():
        for compute in precisions:
            path, want = job_of(name, compute)
            texts = []
            for turn in ("a", "b"):
                run = f"{name}-{compute}-{turn}"
                ran = train(path, run)
                if not h.ok(ran.returncode == 0, f"{run}: the job ends with 0", ran.stdout + ran.stderr):
                    break
                got = h.metrics(h.work() / run)
                h.ok(len(got) == len(want), f"{run}: every step is there", len(got))
                for key in ("loss", "grad_norm"):
                    off, limit = worst(got, want, key), (LIMITS if key == "loss" else NORM_LIMITS)[compute]
                    h.ok(off < limit, f"{run}: {key} within {limit:g}: {off:.2g}")
                texts.append(h.metric_texts(h.work() / run))
            if len(texts) == 2:
                h.ok(texts[0] == texts[1], f"{name} {compute}: the same bits run to run", texts)


def graphs():
    """Passes as CUDA graphs, and without: the same bits."""
    path, _ = job_of("gpt2-tiny")
    ran = [train(path, f"graphs-{on}", DSRUN_CUDA_GRAPHS=on) for on in ("1", "0")]
    said = ran[0].stdout + ran[0].stderr
    if h.ok(all(r.returncode == 0 for r in ran) and "without CUDA graphs" not in said,
            "graphs: recorded, and nothing is said of them", said + ran[1].stderr):
        h.ok(h.metric_texts(h.work() / "graphs-1") == h.metric_texts(h.work() / "graphs-0"),
             "graphs: the same bits as without")


def waits():
    """The host waits for the device in no step, and once for what the one before came to; with graphs and without."""
    path, _ = job_of("gpt2-tiny", stage=0, steps=setting.long, every=0)
    for ranks in (1, 2):
        for on in ("1", "0"):
            run, name = f"waits-{ranks}-{on}", f"waits on {ranks} rank{'s' if ranks > 1 else ''}, graphs {on}"
            ran = train(path, run, ranks, DSRUN_CUDA_GRAPHS=on)
            said = events(run, "waits") if ran.returncode == 0 else []
            if h.ok(said, f"{name}: the job ends with 0 and tells how often it waited", ran.stdout + ran.stderr):
                steps = setting.long - 2
                h.ok(said[0]["steps"] == steps and said[0]["least"] == said[0]["most"] == 0 and
                     not said[0]["calls"], f"{name}: in no step", said)
                h.ok(said[0]["behind"] == {"cudaEventSynchronize": steps}, f"{name}: once behind each", said)
    ran = train(path, "waits-traced", 2, words=("log.trace=kernels", "zero.stage=2"))
    if not h.ok(ran.returncode == 0, "waits: a traced job ends with 0", ran.stdout + ran.stderr):
        return
    for rank in range(2):
        folder = h.work() / "waits-traced" / "trace"
        profile = json.loads((folder / f"kernels-{rank:05}.json").read_text())
        h.ok(profile["waits"] == [], f"waits: rank {rank}'s profile has none", profile["waits"])
        spans = json.loads((folder / f"rank-{rank:05}.json").read_text())["traceEvents"]
        h.ok([e["name"] for e in spans if e.get("cat") == "WAIT"] == [],
             f"waits: rank {rank}'s timeline has none", spans[-3:])
        in_line = sum(r["ms"] for r in profile["operations"] if not r["beside"])
        whole = profile["operations_ms"] + sum(profile["left_ms"].values())
        h.ok(0 < in_line and abs(profile["operations_ms"] / in_line - 1) < 0.05 and
             abs(whole / profile["step_ms"] - 1) < 0.01, f"waits: rank {rank}'s profile adds up to the step", profile)


class Peak:
    """The most that processes had of the GPU's memory beyond what they have now."""

    def __init__(self):
        self.gpu, self.over = machine.Gpu(), threading.Event()
        self.idle = self.most = self.gpu.used()

    def __enter__(self):
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self):
        while self.idle is not None and not self.over.wait(0.02):
            self.most = max(self.most, self.gpu.used() or 0)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def bytes(self):
        return None if self.idle is None else self.most - self.idle


def planned(path, ranks):
    """What the plan says of a rank's memory: all, and what of it is an estimate."""
    ran = h.dsrun("plan", "--json", "--slots", ranks, path, timeout=clock.left(30.0), **environment())
    if not h.ok(ran.returncode == 0, f"memory: dsrun plan for {ranks}", ran.stdout + ran.stderr):
        return None
    memory = json.loads(ran.stdout)["memory"]
    return memory["total"], memory["program and libraries"]


def measured(path, ranks):
    """(planned, estimate of it, taken of the device's memory as rank 0 saw it, by all processes), or None."""
    plan, run = planned(path, ranks), f"memory-{ranks}"
    with Peak() as peak:
        ran = train(path, run, ranks, 60.0)
    found = events(run, "memory") if ran.returncode == 0 else []
    if plan and h.ok(found, f"memory on {ranks}: the job ends with 0 and tells what it took", ran.stdout + ran.stderr):
        return (*plan, found[0]["device_bytes"], peak.bytes())
    return None


def mib(count):
    return "unknown" if count is None else f"{count / 2**20:.1f} MiB"


def memory():
    """What jobs take of the device, beside what their plans say, and what the estimates in them should be."""
    text, paths = h.work() / "memory.txt", {}
    text.write_text(h.TEXT * 1000)
    for ranks in (1, 2):
        paths[ranks] = h.work() / f"memory-{ranks}.yaml"
        shape = {**setting.model, "batch": setting.model["batch"] * ranks}
        paths[ranks].write_text(MEMORY.format(text=text, stage=0 if ranks == 1 else 2, **shape))
    one = measured(paths[1], 1)
    if one is None:
        return
    total, estimate, taken, peak = one
    print(f"# planned {total} bytes, {estimate} of it estimated; taken {taken}")
    if setting.doubles:  # which have no code of kernels on the device
        h.ok(total - estimate <= taken <= (total - estimate) * 1.03, "memory: taken as planned", one)
    else:
        h.ok(abs(taken / total - 1) < 0.03, "memory: taken within 3% of planned", taken / total)
    runtime = taken - (total - estimate)
    print(f"# DEVICE_RUNTIME_BYTES (code, products, graphs) is {mib(estimate)}, measured {mib(runtime)}")
    print(f"# a context takes {mib(None if peak is None else peak - taken)}, of which no plan knows")
    two = measured(paths[2], 2)
    if two is None or peak is None:
        return
    each = two[3] / 2 - (two[0] - two[1]) - (peak - taken) - runtime
    print(f"# DEVICE_COMM_BYTES (NCCL, each of 2 ranks on sockets) is {mib(two[1] - estimate)}, measured {mib(each)}")


def attention():
    """A job of a real shape by cuDNN and by our own kernels: bits from run to run, and what both lose."""
    path, text, losses = h.work() / "attention.yaml", h.work() / "attention.txt", {}
    text.write_text(h.TEXT * 1000)
    path.write_text(MEMORY.format(text=text, stage=0, **setting.model))
    for way in ("own", "cudnn"):
        texts = []
        for turn in ("a", "b"):
            run = f"attention-{way}-{turn}"
            ran = train(path, run, most=90.0, DSRUN_CUDA_ATTENTION=way)
            if way == "cudnn" and any(words in ran.stderr for words in ("cannot be used", "for this GPU")):
                h.skip("attention by cuDNN", ran.stderr.strip().splitlines()[-1])
                return
            if h.ok(ran.returncode == 0, f"{run}: the job ends with 0", ran.stdout + ran.stderr):
                texts.append(h.metric_texts(h.work() / run))
                losses[way] = [g["loss"] for g in h.metrics(h.work() / run)]
        h.ok(len(texts) == 2 and texts[0] == texts[1], f"attention by {way}: the same bits run to run", texts)
    if len(losses) == 2:
        apart = max(abs(a - b) / b for a, b in zip(losses["cudnn"], losses["own"]))
        h.ok(apart < LIMITS["bf16"], f"attention by both: losses within {LIMITS['bf16']:g}: {apart:.2g}", losses)


def generate():
    """Text by dsrun generate: the ids of the CPU where they are the likeliest, and in bf16 the same ones every time."""
    for name in ("gpt2-tiny", "llama-tiny"):
        h.dsrun("ckpt", "import", CASES / name, h.work() / name)
        said = {}
        for run, device, kind, heat in (("cpu", "cpu", "fp32", 0), ("cuda", "cuda", "fp32", 0),
                                        ("bf16-a", "cuda", "bf16", 1), ("bf16-b", "cuda", "bf16", 1)):
            ran = h.dsrun("generate", h.work() / name, "--prompt", "0123", "--max-tokens", 12, "--json", "-q",
                          "--temperature", heat, "--dtype", kind, "--device", device, timeout=clock.left(60.0),
                          **environment())
            h.ok(ran.returncode == 0, f"generate: {name}, {run}: ends with 0", ran.stdout + ran.stderr)
            said[run] = ran.stdout
        h.ok(said["cpu"] == said["cuda"], f"generate: {name}: the ids of the CPU", said)
        h.ok(said["bf16-a"] == said["bf16-b"], f"generate: {name}: the same bits run to run", said)


def fp8():
    """Products of FP8 on GPUs that have them: the kernels' test, and a job of a real shape beside bf16."""
    path, text, losses, texts = h.work() / "fp8.yaml", h.work() / "fp8.txt", {}, []
    text.write_text(h.TEXT * 1000)
    for run, matmul in (("fp8-a", "fp8"), ("fp8-b", "fp8"), ("fp8-bf16", "compute")):
        path.write_text(MEMORY.format(text=text, stage=0, **setting.model)
                        .replace("compute: bf16", f"compute: bf16, matmul: {matmul}"))
        ran = train(path, run, most=90.0)
        if "multiplies no FP8" in ran.stderr:
            h.skip("products of FP8", next(s for s in ran.stderr.splitlines() if "multiplies no FP8" in s))
            return
        if h.ok(ran.returncode == 0, f"{run}: the job ends with 0", ran.stdout + ran.stderr):
            losses[matmul] = [g["loss"] for g in h.metrics(h.work() / run)]
            texts.append(h.metric_texts(h.work() / run))
    if len(losses) == 2 and len(texts) == 3:
        h.ok(texts[0] == texts[1], "fp8: the same bits run to run", texts[:2])
        apart = max(abs(a - b) / b for a, b in zip(losses["fp8"], losses["compute"]))
        h.ok(apart < FP8_LIMIT and losses["fp8"] != losses["compute"],
             f"fp8: losses within {FP8_LIMIT:g} of bf16's: {apart:.2g}", losses)
    programs_end("fp8", [(h.BUILD / "gpu" / "test_fp8", "test_fp8", {})])


def zero():
    """Ranks that share the GPU, over real NCCL: stages against float64, and against each other."""
    for ranks in (2, 4):
        texts = {}
        for stage in (0, 1, 2, 3):
            path, want = job_of("gpt2-tiny", stage=stage, steps=3, every=0)
            run, name = f"zero{stage}-{ranks}", f"ZeRO {stage} on {ranks} ranks"
            ran = train(path, run, ranks, 60.0)
            if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
                continue
            off = worst(h.metrics(h.work() / run), want, "loss")
            h.ok(off < LIMITS["fp32"], f"{name}: loss within {LIMITS['fp32']:g}: {off:.2g}")
            texts[stage] = h.metric_texts(h.work() / run)
        for one, other in zip(list(texts)[:-1], list(texts)[1:]):
            pairs = list(zip(texts[one], texts[other]))
            same = all(a == b for a, b in pairs)
            off = max(abs(float(a[k]) - float(b[k])) / abs(float(a[k])) for a, b in pairs for k in (1, 2))
            h.ok(off <= ORDER, f"ZeRO {one} and {other} on {ranks} ranks: "
                 f"{'the same bits' if same else f'within {ORDER:g}: {off:.2g}'}", (texts[one], texts[other]))


def sharers():
    """Ranks that share sequences or layers, and the GPU, over real NCCL: the losses of ranks that have all, at some stages."""
    path, text, found = h.work() / "sharers.yaml", h.work() / "sharers.txt", {}
    text.write_text(h.TEXT * 1000)
    layers, hidden, context = (2, 32, 32) if setting.doubles else (4, 256, 256)
    path.write_text(MEMORY.format(text=text, stage=0, layers=layers, hidden=hidden, heads=4, context=context, batch=4, micro=1)
                    .replace("compute: bf16", "compute: fp32"))
    for team, share, parts, ranks, stage in ((1, 1, 1, 2, 0), (1, 2, 1, 2, 0), (1, 2, 1, 4, 0), (1, 4, 1, 4, 3), (1, 1, 2, 2, 0),
                                             (1, 1, 2, 4, 2), (1, 2, 2, 4, 1), (2, 1, 1, 2, 0), (4, 1, 1, 4, 0),
                                             (2, 1, 1, 4, 3), (2, 2, 1, 4, 0), (2, 1, 2, 4, 0)):
        run = f"sharers-{team}-{share}-{parts}-{ranks}-{stage}"
        name = f"sharers: {share} of {ranks} ranks, teams of {team}, {parts} part{'s'[:parts - 1]}, ZeRO {stage}"
        ran = train(path, run, ranks, 60.0, (f"parallel.sequence={share}", f"parallel.pipeline={parts}",
                                             f"parallel.tensor={team}", f"zero.stage={stage}"))
        if h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
            found[name] = h.metrics(h.work() / run)
    first = next(iter(found.values()), [])
    for name, got in found.items():
        off = worst(got, first, "loss")
        h.ok(off < ORDER * 10, f"{name}: losses of ranks that have all, {off:.2g}", got)


def evaluation():
    """Parameters that are gathered for an evaluation: the loss that a rank has which holds them."""
    path, text, found = h.work() / "evaluation.yaml", h.work() / "evaluation.txt", {}
    text.write_text(h.TEXT * 1000)
    for stage in (0, 3):
        path.write_text(MEMORY.format(text=text, stage=stage, layers=4, hidden=64, heads=1, context=32, batch=8, micro=2)
                        .replace("compute: bf16", "compute: fp32"))
        ran = train(path, f"evaluation-{stage}", 2, 60.0, (f"data.valid=[{text}]", "eval.every=1", "eval.batches=2"))
        if h.ok(ran.returncode == 0, f"evaluation, ZeRO {stage} on 2 ranks: the job ends with 0", ran.stdout + ran.stderr):
            lines = (h.work() / f"evaluation-{stage}" / "metrics.jsonl").read_text().splitlines()
            found[stage] = [m["valid_loss"] for m in map(json.loads, lines) if "valid_loss" in m]
    if len(found) == 2:
        far = max((abs(a - b) / b for a, b in zip(found[3], found[0])), default=1.0)
        h.ok(far < LIMITS["fp32"], f"evaluation: ZeRO 3 within {LIMITS['fp32']:g} of 0: {far:.2g}", found)


def offload():
    """The optimizer on the host: against float64, and a job of four micro-batches whose every copy is page-locked."""
    for stage in (0, 2, 3):
        path, want = job_of("gpt2-tiny", stage=stage, steps=setting.middling, every=0)
        path.write_text(path.read_text() + "offload: {optim: cpu}\n")
        run, name = f"offload{stage}", f"offload, ZeRO {stage} on 2 ranks"
        ran = train(path, run, 2, 60.0)
        if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
            continue
        off = worst(h.metrics(h.work() / run), want, "loss")
        h.ok(off < LIMITS["fp32"], f"{name}: loss within {LIMITS['fp32']:g}: {off:.2g}")
        calls = events(run, "waits")[0]["calls"]
        h.ok(set(calls) <= {"cudaStreamSynchronize", "cudaEventSynchronize"}, f"{name}: no copy waits", calls)


def workers():
    """{rank: pid} of this check's workers."""
    found = {}
    for pid, line in h.processes().items():
        if "dsrun-worker" not in line:
            continue
        try:
            env = (pathlib.Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = [word[len(b"RANK="):] for word in env if word.startswith(b"RANK=")]
        if rank:
            found[int(rank[0])] = pid
    return found


def wait_for(what, seconds):
    """Until what() is true; false when it is not in that time."""
    end = time.monotonic() + clock.left(seconds)
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(what())


def finish(job, run, seconds):
    """How a started job ended, and all that it said."""
    try:
        code = job.wait(timeout=clock.left(seconds))
    except subprocess.TimeoutExpired:
        code = None
        h.reap()
        job.wait()
    text = (h.work() / "start.log").read_text(errors="replace")
    (h.work() / "start.log").write_text("")
    log.whole(f"{run}: code {code}", text)
    return code, text


def killed():
    """A rank that is killed ends the job; run again, it goes on to the same end."""
    path, _ = job_of("gpt2-tiny", stage=2, steps=setting.long)
    whole = train(path, "killed-whole", 2, 60.0)
    job = h.start("--slots", 2, "--run-dir", h.work() / "killed", path, **environment())
    saved = wait_for(lambda: list((h.work() / "killed").glob("checkpoints/step-*/manifest.json")) or job.poll() is not None,
                     60.0)
    there = workers()
    if there:
        os.kill(there[min(there)], signal.SIGKILL)
    code, text = finish(job, "killed", 60.0)
    h.ok(saved and code is not None, "killed: the job ends", text)
    print(f"# the killed job ended with {code}; {len(there)} workers were there")
    again = train(path, "killed", 2, 60.0)
    h.ok(whole.returncode == 0 and again.returncode == 0, "killed: the next run ends the job", again.stderr)
    bits = h.metric_texts(h.work() / "killed-whole")
    h.ok(bits and h.metric_texts(h.work() / "killed") == bits, "killed: the same bits as without", bits)


def stopped():
    """One rank of four stands still: the others name it, abort, and the job ends with 124."""
    path, text = h.work() / "endless.yaml", h.work() / "endless.txt"
    text.write_text(h.TEXT * 100)
    path.write_text(ENDLESS.format(text=text))
    run, lost = h.work() / "stopped", 2
    job = h.start("--slots", 4, "--run-dir", run, path, **environment(DSRUN_COMM_TIMEOUT=str(PATIENCE_S)))
    steps = run / "metrics.jsonl"
    running = wait_for(lambda: steps.exists() and steps.stat().st_size > 0 or job.poll() is not None, 60.0)
    there = workers()
    if lost in there:
        os.kill(there[lost], signal.SIGSTOP)
    code, said = finish(job, "stopped", 60.0 + PATIENCE_S)
    h.ok(running and len(there) == 4 and code == 124, "stopped: four ranks, and the job ends with 124",
         f"{code}, ranks {sorted(there)}\n{said}")
    for rank in sorted(set(there) - {lost}):
        line = re.search(rf"collective \d+ .* on rank {rank} for .*rank {lost} has not come", said)
        if line:
            h.ok(True, f"stopped: rank {rank} names rank {lost}")
    h.ok(f"rank {lost} has not come" in said, f"stopped: rank {lost} is named", said)
    for rank in sorted(set(there) - {lost}):
        h.ok(f"rank {rank} has not come" not in said, f"stopped: rank {rank} is not", said)


def sanitizer():
    """compute-sanitizer's tools on the reference case, two steps, with graphs and without."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        found = sorted(pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))
        tool = str(found[-1]) if found else None
    if tool is None:
        h.skip("compute-sanitizer", "it is not installed")
        return
    for name, graphs_on in (("memcheck", "0"), ("racecheck", "0"), ("synccheck", "0"), ("memcheck", "1")):
        folder = h.work() / f"libexec-{name}-{graphs_on}"
        folder.mkdir()
        for entry in setting.libexec.iterdir():
            if entry.name != "dsrun-worker" and not entry.name.startswith("."):
                (folder / entry.name).symlink_to(entry)
        # An error that a call of CUDA's answers is no fault: libraries ask for what is not there.
        (folder / "dsrun-worker").write_text(
            f"#!/bin/sh\n[ \"$1\" != device ] || exec '{setting.libexec}/dsrun-worker' \"$@\"\n"
            f"exec '{tool}' --tool {name} --error-exitcode 86 --report-api-errors no "
            f"'{setting.libexec}/dsrun-worker' \"$@\"\n")
        (folder / "dsrun-worker").chmod(0o755)
        path, _ = job_of("gpt2-tiny", steps=2, every=0)
        run = f"sanitizer-{name}-{graphs_on}"
        ran = train(path, run, 1, 60.0, DSRUN_LIBEXEC=str(folder), DSRUN_CUDA_GRAPHS=graphs_on)
        h.ok(ran.returncode == 0, f"compute-sanitizer {name}, graphs {graphs_on}: no fault", ran.stdout + ran.stderr)


# The time that each may take, in seconds, all others allowing; doubles are slow.
PARTS = ((kernels, 110), (reference, 80), (graphs, 25), (waits, 40), (memory, 50), (attention, 50), (generate, 30), (fp8, 60), (zero, 110),
         (sharers, 60), (evaluation, 30), (offload, 45), (killed, 50), (stopped, 60), (sanitizer, 80))
DOUBLES_SLOWER = 6


def tell_machine():
    """Into the log, what may explain how a part ended."""
    for words in (["nvidia-smi", "-q"], ["uname", "-a"], ["ldd", "--version"], ["df", "-h", "/dev/shm", "/tmp"],
                  ["sh", "-c", "ulimit -a"], [str(h.BUILD / "bin" / "dsrun"), "--version"]):
        try:
            ran = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=20.0)
            log.whole(" ".join(words), ran.stdout + ran.stderr)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.whole(" ".join(words), str(error))


def read_libraries(folders):
    """Once, so that the first part does not pay for it: those of CUDA have hundreds of MiB each."""
    began, size = time.monotonic(), 0
    for folder in filter(None, folders.split(":")):
        for path in sorted(pathlib.Path(folder).glob("lib*.so*")):
            if any(word in path.name for word in ("cublasLt", "cudnn", "nccl")) and time.monotonic() - began < 20.0:
                with open(path, "rb") as file:
                    while piece := file.read(1 << 24):
                        size += len(piece)
    print(f"# {size / 2**20:.0f} MiB of libraries read in {time.monotonic() - began:.1f} s")


def do_part(part, seconds):
    """Run one, whatever comes; a line of what came of it."""
    global clock
    before, began = h.counts(), time.monotonic()
    clock = Clock(seconds)
    try:
        part()
    except Exception:  # the other parts are still to be run
        h.ok(False, f"{part.__name__}: goes through", traceback.format_exc())
    h.reap()
    good, bad, skipped = (now - then for now, then in zip(h.counts(), before))
    return f"{part.__name__:<10} {good:>3} ok, {bad} failed, {skipped} skipped, {time.monotonic() - began:.0f} s"


def main():
    global setting, log
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", help="those to run; all of " + " ".join(p.__name__ for p, _ in PARTS))
    parser.add_argument("--seconds", type=float, default=520.0, help="all of it ends in this time")
    parser.add_argument("--out", type=pathlib.Path, help="the folder of the log; bench/results")
    parser.add_argument("--doubles", action="store_true", help="a rehearsal without a GPU")
    args = parser.parse_args()
    setting = Setting(args.doubles)
    end = time.monotonic() + args.seconds
    if args.doubles:
        os.environ.update(LD_LIBRARY_PATH=str(setting.libexec), FAKE_CUDA_MEMORY=str(4 << 30))
    missing = machine.why_no_gpu()
    if missing:
        sys.exit(f"gpu-check: {missing}, nothing was checked")
    if not setting.plugin.exists():
        sys.exit(f"gpu-check: there is no '{setting.plugin}', build it with make CUDA_HOME=..., nothing was checked")
    facts = machine.Gpu().facts()
    word = re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-")
    out = args.out or (h.BUILD if args.doubles else h.ROOT / "bench" / "results")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{datetime.date.today().isoformat()}-{word}-check.log"
    log = sys.stdout = Log(path)
    print(f"# {facts}, {datetime.datetime.now().isoformat(timespec='seconds')}, build {h.BUILD}")
    if not args.doubles:
        folders, where = machine.library_path(h.BUILD)
        if folders:
            os.environ["LD_LIBRARY_PATH"] = folders
        for line in where:
            print(f"# {line}")
        tell_machine()
        if any(line.startswith("libcublasLt") and line.endswith("not found") for line in where):
            sys.exit("gpu-check: there is no cuBLASLt, name its folder in LD_LIBRARY_PATH, nothing was checked")
        read_libraries(folders)
    summary = []
    for part, most in PARTS:
        if args.parts and part.__name__ not in args.parts:
            continue
        left = end - time.monotonic()
        if left < 5.0:
            h.ok(False, f"{part.__name__}: there is time for it")
            summary.append(f"{part.__name__:<10} not run, no time was left")
        else:
            summary.append(do_part(part, min(most * (DOUBLES_SLOWER if args.doubles else 1), left)))
            print(f"# {summary[-1]}", flush=True)
    print("#\n" + "".join(f"# {line}\n" for line in summary) + f"# all of it: {path}", flush=True)
    h.done()


main()
