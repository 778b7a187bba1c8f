# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""part_numbers - parts of check.py: kernels and whole jobs give the right numbers, and the same bits every time."""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import time

import harness as h
from jobs import CASES, LIMITS, MEMORY, clock, ended, environment, job_of, log, setting, train, worst

NORM_LIMITS = {"fp32": 1e-4, "bf16": 5e-2}  # of gradients, as for the CPU
FP8_LIMIT = 2e-2  # of losses beside those of bf16


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
    for name in ("gpt2-tiny", "llama-tiny", "mixtral-tiny"):
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
