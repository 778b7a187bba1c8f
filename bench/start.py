# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""start.py - seconds from exec of dsrun to the first line of metrics: a tiny model on 2 ranks.

The line is written after the first optimizer step and has travelled worker, agent, dsrun, disk, so
the time is an upper bound of "to the end of the first step".
"""
import os
import statistics
import subprocess
import tempfile
import time

from common import HERE, PYTHON, Failed, limit, run_json, torch_env, torch_version

MOST_S = 0.2

JOB = """\
name: start
run_dir: run
model: {arch: gpt2, layers: 4, hidden: 128, heads: 4, vocab: 256, context: 256}
data: {train: [text.txt], format: text}
train: {steps: 2, global_batch: 2, micro_batch: 1}
optim: {lr: 3.0e-4}
checkpoint: {every: 0}
log: {sinks: [jsonl]}
launch: {threads: 1}
"""


def first_line_s(argv, folder):
    path = os.path.join(folder, "run", "metrics.jsonl")
    began = time.perf_counter()
    with subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        taken = None
        while taken is None:
            if os.path.exists(path) and os.path.getsize(path) > 0:
                taken = time.perf_counter() - began
            elif process.poll() is not None or time.perf_counter() - began > 60:
                break
            time.sleep(0.0005)
        if taken is None:
            process.kill()
        errors = process.stderr.read().strip()
    if taken is None or process.returncode != 0:
        raise Failed(f"dsrun ended with {process.returncode}: {errors or 'no first line'}")
    return taken


def dsrun_s(build):
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/job.yaml", "w", encoding="utf-8") as file:
            file.write(JOB)
        with open(folder + "/text.txt", "w", encoding="utf-8") as file:
            file.write("to start is to be half done. " * 4000)
        return first_line_s([os.path.abspath(build) + "/bin/dsrun", "--slots", "2", "job.yaml"],
                            folder)


def torch_s():
    return run_json([PYTHON, HERE + "/peers/ranks.py", "2", HERE + "/peers/torch_gpt.py", "--shape",
                     "4,128,4,256,256,2", "--warm", "0", "--steps", "1"],
                    torch_env(1))["first_step_s"]


def measure(context):
    with_torch = torch_version() is not None
    ours, peer = [], []
    for turn in range(5 if context.quick else 9):
        ours.append(dsrun_s(context.build))
        if with_torch and turn < 3:
            peer.append(torch_s())
    rows = [{"name": "dsrun", "median_s": round(statistics.median(ours), 4),
             "min_s": round(min(ours), 4), "runs": len(ours)}]
    if peer:
        rows.append({"name": "torch DDP", "median_s": round(statistics.median(peer), 3),
                     "min_s": round(min(peer), 3), "runs": len(peer)})
    for row in rows:
        context.say(f"    {row['name']:<10} {row['median_s']:7.3f} s  (best {row['min_s']:.3f})")
    return rows, [limit("from exec to the first step of a tiny model on 2 ranks",
                        rows[0]["median_s"], MOST_S, "s")]
