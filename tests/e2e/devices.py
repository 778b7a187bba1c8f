# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""devices - what the scripts share whose jobs run on the doubles of CUDA (tests/fakes/)."""
import atexit
import json
import os
import shutil
import tempfile

import harness as h
import reference

FAKES = h.BUILD / "fakes" / "libexec"
LIMIT = 1e-4
SHARED = tempfile.mkdtemp(prefix="dsrun-fake-nccl.", dir="/dev/shm")  # the double's files of these jobs alone
atexit.register(shutil.rmtree, SHARED, ignore_errors=True)
os.environ["FAKE_NCCL_FOLDER"] = SHARED
SHARE = {"DSRUN_CUDA_SHARE": "1"}

SMALL = """\
name: small
model: {{arch: {arch}, layers: 1, hidden: 16, heads: 1, ffn: 32, context: 16}}
data: {{train: [{text}], format: text}}
train: {{steps: 3, global_batch: 2, micro_batch: 1}}
optim: {{lr: 3.0e-3}}
precision: {{compute: bf16, matmul: {matmul}}}
zero: {{stage: {stage}}}
checkpoint: {{every: 1, keep: 1}}
launch: {{device: {device}, threads: 1, restarts: {restarts}}}
"""


def events(run, name):
    """Those of a run that have this name."""
    return [e for e in map(json.loads, (run / "events.jsonl").read_text().splitlines()) if e.get("event") == name]


def case_job(name, steps=2, compute="fp32", stage=0, device="cuda", restarts=0, every=1):
    """A job file of a reference case, and what its steps are to give."""
    case = reference.CASES / name
    path = h.work() / f"{name}-{compute[:4]}-{stage}-{device}-{restarts}-{steps}.yaml"
    path.write_text(reference.job_text(case, steps, micro=2, compute=compute) + f"""\
zero: {{stage: {stage}}}
checkpoint: {{every: {every}, keep: 1}}
launch: {{device: {device}, threads: 1, restarts: {restarts}}}
""")
    return path, reference.load(case, "expected")[:steps]


def train(job, run, slots=1, libexec=FAKES, extra=(), **env):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / run, job, *extra, DSRUN_LIBEXEC=str(libexec), **SHARE, **env)


def worst(got, want, key):
    return max(abs(g[key] - w[key]) / max(abs(w[key]), 1e-12) for g, w in zip(got, want))


def small_job(arch, matmul="fp8", device="cuda", stage=0, restarts=0):
    """A job of one layer, for what takes no reference case."""
    path = h.work() / f"small-{arch}-{matmul}-{device}-{stage}-{restarts}.yaml"
    path.write_text(SMALL.format(arch=arch, text=h.ROOT / "README.md", matmul=matmul, device=device, stage=stage,
                               restarts=restarts))
    return path


def planned(job, *words, **env):
    """dsrun plan of a job on this machine, and what it says of memory."""
    ran = h.dsrun("plan", "--json", job, *words, DSRUN_LIBEXEC=str(FAKES), **env)
    return ran, json.loads(ran.stdout)["memory"] if ran.stdout else {}


def done():
    """Nothing of these jobs is left."""
    h.ok(not h.left(), "no process is left", h.left(0))
    h.ok(not os.listdir(SHARED), "no shared file is left", os.listdir(SHARED))
    h.done()


def require():
    if not (FAKES / "dsrun-cuda.so").exists():
        h.skip("devices", "the emulation switches stacks on x86-64 and aarch64 only")
        h.done()
