#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""parity - the reference cases through the real command line, against their float64 answers.

tests/reference/<case>/ holds weights, tokens, the job and what an independent implementation computed.
Each case runs on 1, 2 and 4 ranks at every ZeRO stage in fp32 and bf16, and with full recomputation;
every step's loss, gradient norm and learning rate and the final weights are compared.
"""
import math

import harness as h
import reference

CASES = ("gpt2-tiny", "llama-tiny", "mixtral-tiny", "qwen2-tiny", "qwen3-moe-tiny", "mistral-tiny", "phi3-tiny", "olmo2-tiny",
         "gemma3-tiny", "longrope-tiny", "smollm3-tiny", "granite-tiny", "pythia-tiny", "neox-tiny")
# Largest relative error: loss, gradient norm, and L2 of each final weight.
FP32 = {"loss": 1e-5, "grad_norm": 1e-4, "weights": 1e-4}
BF16 = {"loss": 1e-2, "grad_norm": 5e-2, "weights": 2e-2}
LR = 1e-6
OF_CHOICES = 2  # where bf16 turns a choice between experts, a token has another gradient: in the norm so many times as much
OF_ROUNDING = 2  # a shift of all keys is nearly nothing to a softmax: what a key's bias does is rounding, as far as it is bf16's

def job_text(case, ranks, compute, recompute, stage):
    job = reference.load(case, "job")
    batch = job["micro_batches"] * job["batch"]
    return reference.job_text(case, steps=job["steps"], micro=min(job["batch"], batch // ranks), compute=compute) + f"""\
activation: {{recompute: {recompute}}}
zero: {{stage: {stage}, replicate_below: {100 if stage == 2 else 0}}}
checkpoint: {{every: {job["steps"]}, keep: 1}}
launch: {{device: cpu}}
"""


def relative(got, want):
    return abs(got - want) / max(abs(want), 1e-12)


def relative_l2(got, want):
    difference = sum((a - b) ** 2 for a, b in zip(got, want))
    return math.sqrt(difference / sum(b * b for b in want))


def compare_steps(name, run, case, limits):
    want, got = reference.load(case, "expected"), h.metrics(run)
    if not h.ok(len(got) == len(want), f"{name}: every step is there", f"{len(got)} of {len(want)}"):
        return
    for key, limit in (("loss", limits["loss"]), ("grad_norm", limits["grad_norm"]), ("lr", LR)):
        worst = max(relative(g[key], w[key]) for g, w in zip(got, want))
        h.ok(worst < limit, f"{name}: {key} within {limit:g}", f"worst {worst:g}")


def compare_weights(name, folder, case, limits):
    got = h.safetensors(folder / "model.safetensors")
    want = {k[len("final."):]: v for k, v in h.safetensors(case / "expected.safetensors").items()
            if k.startswith("final.")}
    if not h.ok(set(got) == set(want), f"{name}: names of the weights", set(got) ^ set(want)):
        return
    wrong = [k for k in want if got[k][0] != want[k][0]]
    h.ok(not wrong, f"{name}: shapes of the weights", wrong)
    worst = max((relative_l2(got[k][1], want[k][1]) / (OF_ROUNDING if k.endswith("k_proj.bias") else 1), k) for k in want)
    h.ok(worst[0] < limits["weights"], f"{name}: final weights within {limits['weights']:g}", worst)


def run_case(case, ranks, compute="fp32", recompute="none", stage=0):
    name = f"{case.name}, {ranks} ranks, {compute}, recompute {recompute}, stage {stage}"
    folder = h.work() / name.replace(", ", "-").replace(" ", "-")
    folder.mkdir()
    (folder / "job.yaml").write_text(job_text(case, ranks, compute, recompute, stage))
    ran = h.dsrun("--slots", ranks, "--run-dir", folder / "run", folder / "job.yaml")
    if not h.ok(ran.returncode == 0, f"{name}: the job ends with 0", ran.stdout + ran.stderr):
        return
    limits = FP32 if compute == "fp32" else BF16
    if compute != "fp32" and "num_experts_per_tok" in reference.load(case, "config"):
        limits = {**limits, "grad_norm": OF_CHOICES * limits["grad_norm"]}
    compare_steps(name, folder / "run", case, limits)
    ran = h.dsrun("ckpt", "export", folder / "run", folder / "hf")
    if h.ok(ran.returncode == 0, f"{name}: export", ran.stderr):
        compare_weights(name, folder / "hf", case, limits)


for case_name in CASES:
    folder = reference.CASES / case_name
    families = case_name in CASES[:2]  # of what is written for all of them these two have all
    for count in (1, 2, 4) if families else (1, 2):
        for zero in (0, 1, 2, 3) if count > 1 and families else (0, 3):
            run_case(folder, count, stage=zero)
            run_case(folder, count, compute="bf16", stage=zero)
    run_case(folder, 2, recompute="full")
h.done()
