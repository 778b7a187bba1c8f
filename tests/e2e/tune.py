#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""tune - layouts ranked by prediction, the best few tried in the same processes, and refusals."""
import json
import os

import harness as h

CONFIG = os.path.join(h.work(), "config")
RATES = """hosts: 1
ranks: 2
device: {flops: {fp32: 100e9}, bandwidth: 10e9}
link: {host: {bandwidth: 5e9, latency_us: 5}}
overlap: 0
"""


def tune(*options, **more):
    return h.dsrun("tune", "--slots", "2", *options, h.write_job(), "train.global_batch=8",
                   "train.micro_batch=1", XDG_CONFIG_HOME=CONFIG, **more)


ran = tune()
h.ok(ran.returncode == 65 and "bench machine 2" in ran.stderr, "no rates: says how to get them",
     ran.stderr)
os.makedirs(os.path.join(CONFIG, "dsrun"))
with open(os.path.join(CONFIG, "dsrun", "machine.yaml"), "w", encoding="utf-8") as out:
    out.write(RATES)

ran = tune("--json", "--trials", "4")
h.ok(ran.returncode == 0, "four layouts tried: ends with 0", ran.stderr)
found = json.loads(ran.stdout or "{}")
layouts = found.get("layouts", [])
alone = [entry for entry in layouts if "parallel." not in entry["overrides"]]
h.ok(len(alone) == 3 * 3 * 3 * 2,
     "micro-batches 1, 2, 4; stages 0 to 2, which 3 is here; recompute none, selective, full; offload none, cpu",
     len(alone))
h.ok(all(any(f"parallel.{key}=2" in entry["overrides"] for entry in layouts) for key in ("tensor", "sequence", "pipeline")),
     "who shares is searched, too", [entry["overrides"] for entry in layouts])
h.ok(all(a["predicted_ms"] <= b["predicted_ms"] for a, b in zip(layouts, layouts[1:])),
     "the fastest by prediction comes first")
measured = [entry.get("measured_ms", 0) for entry in layouts]
h.ok(all(ms > 0 for ms in measured[:4]) and not any(measured[4:]), "the first four were measured",
     measured[:6])
h.ok(measured[found["best"]] == min(measured[:4]), "the best is the fastest measured", found["best"])
h.ok("runs" not in os.listdir(h.work()), "trials leave no run directory", os.listdir(h.work()))
h.ok(not h.left(), "trials leave no process", h.left())

best = layouts[found["best"]]["overrides"].split()
ran = h.dsrun("--slots", "2", h.write_job(), "train.global_batch=8", *best, "run_dir=tuned")
h.ok(ran.returncode == 0, "the overrides are those of a job", ran.stderr)

WAYS = ("tensor", "sequence", "pipeline")
for given in ((), ("parallel.sequence=1",)):
    ran = h.dsrun("tune", "--slots", "2", "--json", "--trials", "16", h.write_job(), "train.global_batch=1",
                  "train.micro_batch=1", *given, XDG_CONFIG_HOME=CONFIG)
    found = json.loads(ran.stdout or "{}").get("layouts", [])
    tried = [entry["overrides"] for entry in found if "measured_ms" in entry]
    ways = {way for way in WAYS if any(f"parallel.{way}=2" in text for text in tried)}
    h.ok(ran.returncode == 0 and ways == set(WAYS) - {key.split(".")[1].split("=")[0] for key in given},
         f"one sequence for two ranks: every way to share is tried in the same processes {' '.join(given)}",
         ran.stderr or tried)

ran = tune("--trials", "0")
h.ok(ran.returncode == 0 and "best: train.micro_batch=" in ran.stdout and "0 tried" in ran.stdout,
     "no trial: predictions alone", ran.stdout)
with open(os.path.join(h.work(), "cluster.yaml"), "w", encoding="utf-8") as out:
    out.write("hosts: 4\nranks: 8\ndevice: {flops: {fp32: 5e13}, bandwidth: 2e12, memory: 80e9}\n"
              "link: {host: {bandwidth: 3e11}, network: {bandwidth: 5e10}}\n")
ran = h.dsrun("tune", "--json", "--cluster", os.path.join(h.work(), "cluster.yaml"), h.write_job(),
              "train.global_batch=64", "train.micro_batch=1")
alone = [entry for entry in json.loads(ran.stdout or '{"layouts": []}')["layouts"] if "parallel." not in entry["overrides"]]
h.ok(ran.returncode == 0 and len(alone) == 2 * 7 * 3 * 2 and "zero.shard_group=node" in ran.stdout, "a described cluster is ranked, shard groups too",
     ran.stderr or len(alone))
ran = h.dsrun("tune", "--trials", "2", "--cluster", os.path.join(h.work(), "cluster.yaml"), h.write_job())
h.ok(ran.returncode == 2 and "needs the hosts themselves" in ran.stderr, "trials on hosts that are not there", ran.stderr)
ran = h.dsrun("tune", "--cluster", os.path.join(h.work(), "cluster.yaml"), h.write_job(),
              "train.global_batch=33", "train.micro_batch=1")
h.ok(ran.returncode == 65 and ran.stderr == "dsrun: error: no layout is possible: 'train.global_batch' 33 is not divisible by 32 ranks\n",
     "a batch that no layout can share", ran.stderr)
ran = h.dsrun("tune", "--cluster", os.path.join(h.work(), "cluster.yaml"), h.write_job(), "model.heads=3", "model.hidden=36", "model.ffn=66",
              "parallel.tensor=3", "parallel.sequence=1", "parallel.pipeline=1")
h.ok(ran.returncode == 65 and ran.stderr == "dsrun: error: no layout is possible: 32 ranks are no multiple of 3 that share\n",
     "ranks that cannot share so", ran.stderr)
with open(os.path.join(h.work(), "small.yaml"), "w", encoding="utf-8") as out:
    out.write("hosts: 1\nranks: 2\ndevice: {flops: {fp32: 5e13}, bandwidth: 2e12, memory: 1e6}\nlink: {host: {bandwidth: 3e11}}\n")
for words in ((), ("--json",)):
    ran = h.dsrun("tune", *words, "--cluster", os.path.join(h.work(), "small.yaml"), h.write_job())
    if words:
        found = json.loads(ran.stdout)
        sizes, none = [entry["bytes"] for entry in found["layouts"]], found["best"] is None
    else:
        sizes, none = [float(line.split()[3]) for line in ran.stdout.splitlines() if "does not fit" in line], "best" not in ran.stdout
    h.ok(ran.returncode == 65 and len(sizes) > 9 and sizes == sorted(sizes) and none and "no layout fits in the memory of a rank: the least takes " in ran.stderr,
         f"where none fits none is best, the least comes first {' '.join(words)}", f"{sizes} {ran.stdout[-300:]} {ran.stderr}")
ran = tune("--trials", "99")
h.ok(ran.returncode == 2 and ran.stderr.count("error:") == 1, "too many trials", ran.stderr)
h.done()
