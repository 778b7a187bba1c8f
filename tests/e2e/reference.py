# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""reference - the jobs of tests/reference/<case>/, for the scripts that run them through the command line."""
import json

import harness as h

CASES = h.ROOT / "tests" / "reference"

JOB = """\
name: reference
model: {{arch: {arch}, init: {{from: {case}}}}}
data: {{train: [{case}/tokens.safetensors], format: samples, order: sequential{documents}}}
train: {{steps: {steps}, global_batch: {batch}, micro_batch: {micro}, sequence: {seq}}}
optim: {{name: adamw, lr: {lr}, betas: {betas}, eps: {eps}, weight_decay: {weight_decay}, clip: {clip}}}
schedule: {{kind: cosine, warmup: {warmup}, steps: {total}, min_lr: {min_lr}}}
precision: {{compute: {compute}}}
"""


def load(case, name):
    """config, job or expected: a file of the folder `case`."""
    return json.loads((case / f"{name}.json").read_text())


def job_text(case, steps, micro, compute):
    """The job of the folder `case`; sections that are not in JOB may be appended."""
    job, config = load(case, "job"), load(case, "config")
    o, s = job["optimizer"], job["schedule"]
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    documents = f", documents: apart, separator: {job['separator']}" if "separator" in job else ""
    return JOB.format(arch=arch, documents=documents, case=case, steps=steps, batch=job["micro_batches"] * job["batch"],
                      micro=micro, seq=job["seq"], lr=o["lr"], betas=o["betas"], eps=o["eps"],
                      weight_decay=o["weight_decay"], clip=job["clip"], warmup=s["warmup_steps"],
                      total=s["total_steps"], min_lr=s["min_lr"], compute=compute)
