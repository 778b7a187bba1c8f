#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""plan - `dsrun plan` for described clusters: predictions, timelines, refusals, 16,384 ranks."""
import json
import os
import re

import harness as h

JOB = """name: planned
model: {arch: llama, layers: 32, hidden: 4096, heads: 32, kv_heads: 8, ffn: 14336, vocab: 128256,
        context: 8192}
data: {train: [none.txt]}
train: {steps: 10, global_batch: %d, micro_batch: 1}
precision: {compute: bf16}
%s"""
CLUSTER = """hosts: %d
ranks: 8
device: {name: H100, flops: {bf16: 660e12}, peak: {bf16: 989e12}, bandwidth: 2.9e12, memory: %s}
link: {host: {bandwidth: 370e9, latency_us: 6}, network: {bandwidth: 46e9, latency_us: 12}}
"""


def write(name, text):
    path = os.path.join(h.work(), name)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    return path


def plan(hosts, *options, memory="80e9", more=""):
    job = write("job.yaml", JOB % (hosts * 8 * 2, more))
    cluster = write("cluster.yaml", CLUSTER % (hosts, memory))
    return h.dsrun("plan", "--cluster", cluster, *options, job)


ran = plan(1, "--json", memory="0")
h.ok(ran.returncode == 0, "a described cluster: ends with 0", ran.stderr)
found = json.loads(ran.stdout)["predicted"]
h.ok(all(found[key] > 0 for key in ("step_ms", "compute_ms", "update_ms", "collectives_ms",
                                    "tokens_per_s", "mfu")), "every prediction is a number", found)
h.ok(0.2 < found["mfu"] < 0.7, "an 8B model on 8 GPUs: a credible MFU", found)
h.ok(found["step_ms"] < found["compute_ms"] + found["update_ms"] + found["collectives_ms"],
     "collectives overlap compute", found)

ran = plan(2, "--json", more="zero: {stage: 3}\n")
found = json.loads(ran.stdout)
chosen = found["prefetch_chosen"]
tried = {one["buckets"]: one for one in chosen["tried"]}
h.ok(sorted(tried) == [1, 2, 3, 4] and found["prefetch"] == chosen["buckets"] and
     tried[chosen["buckets"]]["step_ms"] == found["predicted"]["step_ms"] and
     all(tried[i]["bytes"] < tried[i + 1]["bytes"] for i in (1, 2, 3)),
     "stage 3: how far ahead, of what was looked at, and why", chosen)
ran = plan(2, "--json", more="zero: {stage: 3, prefetch: 3}\n")
h.ok(json.loads(ran.stdout)["prefetch"] == 3 and "as zero.prefetch says" in ran.stdout,
     "zero.prefetch: as the job says", ran.stdout[-400:])
ran = plan(2, more="zero: {stage: 3, prefetch: 5}\n")
h.ok(ran.returncode == 65 and "zero.prefetch" in ran.stderr and "between 1 and 4" in ran.stderr,
     "zero.prefetch: 5 is refused", ran.stderr)

ran = plan(1, memory="80e9")
h.ok(ran.returncode == 65 and "not enough memory" in ran.stderr and "tokens per second" in ran.stdout,
     "stage 0 of an 8B model does not fit 80 GB: printed, then refused", ran.stderr)

def offloaded(memory, *options, stage=2):
    text = CLUSTER % (1, "80e9")
    at = text.index("link:")
    text = text[:at] + text[at:].replace("link: {", "link: {device: {bandwidth: 50e9, latency_us: 5}, ", 1)
    text += "host: {memory: %s, update: 40e9}\n" % memory
    job = write("job.yaml", JOB % (16, "zero: {stage: %d}\noffload: {optim: cpu}\n" % stage))
    return h.dsrun("plan", "--cluster", write("cluster.yaml", text), *options, job)


ran = offloaded("1e12", "--json")
found = json.loads(ran.stdout)
h.ok(ran.returncode == 0, "with offload the same model fits at stage 2", ran.stderr)
memory = found["memory"]
h.ok(memory["of the host"] >= 16 * found["parameters"] / 8 and
     memory["total"] - memory["shared, of other ranks"] < 80e9,
     "what the host keeps is counted apart", memory)
h.ok(found["predicted"]["copies_ms"] > 0 and found["predicted"]["host_update_ms"] > 0,
     "its link and its updates are predicted", found["predicted"])
ran = offloaded("100e9")
h.ok(ran.returncode == 65 and "on the host" in ran.stderr and "offload.optim" in ran.stderr,
     "a host that cannot keep it: refused", ran.stderr)
h.ok("of the device" in ran.stdout and "of the host" in ran.stdout, "both memories are printed", ran.stdout)
ran = offloaded("1e12", "--schedule")
h.ok(all(word in ran.stdout for word in ("OFFLOAD   COPY_OUT", "UPDATE    HOST", "FETCH     COPY_IN")),
     "copies and updates are in the list", ran.stdout[-2000:])

trace = os.path.join(h.work(), "step.json")
ran = plan(2048, "--timeline", trace, memory="0")
h.ok(ran.returncode == 0 and "2048 x 8 ranks" in ran.stdout, "16,384 ranks", ran.stderr)
h.ok(re.search(r"\b8\.03B parameters", ran.stdout) and re.search(r"\d+G FLOP", ran.stdout),
     "billions of parameters, giga-FLOP", ran.stdout)
with open(trace, encoding="utf-8") as source:
    events = json.load(source)["traceEvents"]
work = [e for e in events if e["ph"] == "X"]
h.ok({"FORWARD block 0", "BACKWARD block 33"} <= {e["name"] for e in work},
     "the timeline has every block", len(work))
h.ok(all(e["dur"] >= 0 and e["ts"] >= 0 for e in work), "the timeline has times")
h.ok(any(e["name"] == "thread_name" and e["args"]["name"] == "REDUCE" for e in events),
     "the timeline names its queues")

ran = plan(1, "--timeline", os.path.join(h.work(), "none", "x.json"), memory="0")
h.ok(ran.returncode != 0 and ran.stderr.count("error:") == 1, "a timeline that cannot be written",
     ran.stderr)
job = write("job.yaml", JOB % (16, ""))
for name, text, says in (
        ("unknown key", "hosts: 1\ndevize: {}\n", ":2:1: "),
        ("no rate", "device: {bandwidth: 1e9}\n", "device.flops"),
        ("no network", "hosts: 2\ndevice: {flops: {bf16: 1e12}, bandwidth: 1e9}\n", "link.network"),
        ("too many ranks", "hosts: 65536\nranks: 8\ndevice: {flops: {bf16: 1e12}, bandwidth: 1e9}\n"
         "link: {host: {bandwidth: 1e9}, network: {bandwidth: 1e9}}\n", "more than")):
    ran = h.dsrun("plan", "--cluster", write("bad.yaml", text), job)
    h.ok(ran.returncode == 65 and says in ran.stderr and ran.stderr.count("error:") == 1,
         f"cluster file refused: {name}", ran.stderr)
ran = h.dsrun("plan", "--cluster", os.path.join(h.work(), "missing.yaml"), job)
h.ok(ran.returncode == 2, "a cluster file that does not exist", ran.stderr)
ran = h.dsrun("plan", "--timeline", trace, job, "train.global_batch=1",
              XDG_CONFIG_HOME=os.path.join(h.work(), "config"))
h.ok(ran.returncode == 65 and "bench machine" in ran.stderr, "no rates of this machine", ran.stderr)

# This machine's rates, and a plan at them.
if h.SANITIZED:
    h.skip("bench machine: a plan at this machine's rates", "rates mean nothing under a sanitizer")
else:
    ran = h.dsrun("bench", "machine", timeout=600)
    h.ok(ran.returncode == 0 and not ran.stderr, "bench machine: ends with 0", ran.stderr)
    os.makedirs(os.path.join(h.work(), "config", "dsrun"))
    write("config/dsrun/machine.yaml", ran.stdout)
    ran = h.dsrun("plan", "--json", h.write_job(), XDG_CONFIG_HOME=os.path.join(h.work(), "config"))
    h.ok(ran.returncode == 0 and json.loads(ran.stdout).get("predicted", {}).get("step_ms", 0) > 0,
         "bench machine: a plan at this machine's rates", ran.stderr or ran.stdout)
    h.text_file()
    ran = h.dsrun("--dry-run", h.write_job(), XDG_CONFIG_HOME=os.path.join(h.work(), "config"))
    h.ok(ran.returncode == 0 and "tokens per second" in ran.stdout and "\nrank 0  host " in ran.stdout,
         "a dry run predicts, too", ran.stderr or ran.stdout)
# Rates that cannot be read: the plan that needs them is refused, a run that only could use them is not.
os.makedirs(os.path.join(h.work(), "wrong", "dsrun"))
write("wrong/dsrun/machine.yaml", "device: {flops: {fp32: 1e11}, bandwidth: 1e10, matmul_half: 24}\n")
h.text_file()
ran = h.dsrun("plan", h.write_job(), XDG_CONFIG_HOME=os.path.join(h.work(), "wrong"))
h.ok(ran.returncode == 65 and "machine.yaml:1:" in ran.stderr and "matmul_half" in ran.stderr,
     "rates of another form are refused with their place", ran.stderr)
ran = h.dsrun("--slots", "2", h.write_job(steps=2), "run_dir=warned", "zero.stage=3",
              "zero.once_per_host=false", XDG_CONFIG_HOME=os.path.join(h.work(), "wrong"))
h.ok(ran.returncode == 0 and "zero.prefetch auto goes by sizes" in ran.stderr and "machine.yaml:1:" in ran.stderr
     and ran.stderr.count("\n") == 1, "a run warns and goes by sizes", ran.stderr)
with open(os.path.join(h.work(), "warned", "job.yaml"), encoding="utf-8") as source:
    text = source.read()
    h.ok(any(f"prefetch: {depth}\n" in text for depth in "1234"),
         "the depth that was chosen stands in the resolved job")
ran = h.dsrun("--slots", "2", h.write_job(steps=2), "run_dir=none", "zero.stage=3", "zero.once_per_host=false",
              XDG_CONFIG_HOME=os.path.join(h.work(), "nowhere"))
h.ok(ran.returncode == 0 and not ran.stderr, "where there are no rates it says nothing", ran.stderr)
ran = h.dsrun("--slots", "2", h.write_job(steps=2), "run_dir=once", "zero.stage=3",
              XDG_CONFIG_HOME=os.path.join(h.work(), "wrong"))
h.ok(ran.returncode == 0 and "warning" not in ran.stderr and "ZeRO 3" in ran.stdout and "once per host" in ran.stdout,
     "stage 3 on one host: nothing is gathered ahead, so no rates are asked for", ran.stdout + ran.stderr)
ran = h.dsrun("plan", "--slots", "2", h.write_job(), "zero.stage=3")
h.ok(ran.returncode == 0 and "prefetch 0 buckets ahead: the ranks that share hold the parameters once" in ran.stdout,
     "and the plan says so", ran.stdout + ran.stderr)
ran = h.dsrun("bench", "machine", "none")
h.ok(ran.returncode == 2 and ran.stderr.count("error:") == 1, "bench machine: ranks that are no number",
     ran.stderr)

# A real step, traced: the instructions of the plan, one rank a file.
h.text_file()
ran = h.dsrun("--slots", "2", h.write_job(steps=4), "run_dir=traced", "log.trace=step", "zero.stage=2")
h.ok(ran.returncode == 0, "log.trace: the job ends with 0", ran.stderr)
for rank in range(2):
    with open(os.path.join(h.work(), "traced", "trace", f"rank-{rank:05}.json"), encoding="utf-8") as source:
        events = json.load(source)["traceEvents"]
    work = [e for e in events if e["ph"] == "X"]
    names = {e["name"].split()[0] for e in work}
    h.ok(names >= {"FORWARD", "BACKWARD", "REDUCE", "GATHER", "NORM", "UPDATE"},
         f"log.trace: rank {rank} has every kind of instruction", names)
    h.ok(all(e["pid"] == rank and e["dur"] >= 0 for e in work) and sum(e["dur"] for e in work) > 0,
         f"log.trace: rank {rank} has times")


def kernels():
    """The same operation by operation: a table that adds up, the bits of a run without."""
    job = h.write_job("kernels.yaml", steps=4)
    for run, words in (("plain", []), ("kernels", ["log.trace=kernels"])):
        ran = h.dsrun("--slots", "2", job, f"run_dir={run}", "zero.stage=1", *words)
        h.ok(ran.returncode == 0, f"log.trace kernels: {run} ends with 0", ran.stderr)
    h.ok(h.metric_texts(h.work() / "kernels") == h.metric_texts(h.work() / "plain"), "log.trace kernels: the same bits")
    folder = h.work() / "kernels" / "trace"
    h.ok(f"traced, see {folder}/kernels-00000.txt" in ran.stdout + ran.stderr or "kernels-00000.txt" in ran.stdout,
         "log.trace kernels: said where", ran.stdout)
    text = (folder / "kernels-00000.txt").read_text()
    for rank in range(2):
        read = json.loads((folder / f"kernels-{rank:05}.json").read_text())
        rows = [row for row in read["operations"] if not row["beside"]]
        h.ok(abs(read["operations_ms"] + sum(read["left_ms"].values()) - read["step_ms"]) < 1e-3 * read["step_ms"] and
             abs(sum(row["ms"] for row in rows) - read["operations_ms"]) < 1e-3 * read["step_ms"],
             f"log.trace kernels: rank {rank} adds up to the step", read)
        h.ok({"matmul", "attention_fwd", "attention_bwd", "xent", "adamw", "sumsq"} <= {row["name"] for row in rows} and
             all(row["calls"] > 0 and row["bytes"] > 0 for row in rows), f"log.trace kernels: rank {rank} has rows", rows)
        h.ok(read["peak_flops"] > 0 and read["copy_bytes_per_s"] > 0 and read["waits"] == [],
             f"log.trace kernels: rank {rank} has bounds", read)
    h.ok("of bound" in text and "communication that is waited for" in text, "log.trace kernels: the table", text)
    spans = json.loads((folder / "rank-00000.json").read_text())["traceEvents"]
    inside = [e for e in spans if e.get("cat") == "OPERATION" and e["name"] == "matmul"]
    passes = [e for e in spans if e.get("name", "").startswith(("FORWARD", "BACKWARD"))]
    h.ok(inside and all(any(p["ts"] - 1 <= e["ts"] and e["ts"] + e["dur"] <= p["ts"] + p["dur"] + 1 for p in passes)
                        for e in inside), "log.trace kernels: every product lies inside a pass", inside[:3])


kernels()


# The answers of DeepSpeed's elastic batch arithmetic (tests/unit/elasticity): a batch, the micro batches that are
# allowed, and every number of ranks that it serves.
ELASTIC = [
    (9792, (8, 12, 16, 17), (32, 34, 36, 48, 51, 64, 68, 72, 96, 102, 136, 144, 153, 192, 204, 272, 288, 306, 408, 576,
                             612, 816, 1224)),
    (24, (1, 2, 3, 7), (1, 2, 3, 4, 6, 8, 12, 24)),
    (96, (8, 10, 12), (1, 2, 3, 4, 6, 8, 12)),
]


def elastic():
    job = h.write_job("elastic.yaml", layers=1)
    hosts = h.work() / "elastic.hosts"  # of few ranks each: all of them fit in the memory of any machine

    def plans(batch, micro, world):
        hosts.write_text("".join(f"a{first} slots={min(16, world - first)}\n" for first in range(0, world, 16)))
        ran = h.dsrun("plan", "-H", hosts, job, f"train.global_batch={batch}", f"train.micro_batch={micro}")
        h.ok(ran.returncode in (0, 65) and (ran.returncode == 0 or "must be a multiple of" in ran.stderr),
             f"elastic: {batch} on {world} by {micro}: {'fits' if ran.returncode == 0 else 'refused'}", ran.stderr)
        return ran.returncode == 0

    for batch, micros, worlds in ELASTIC:
        for world in worlds:
            fits = [m for m in micros if batch % (world * m) == 0]
            h.ok(fits and plans(batch, fits[-1], world), f"elastic: {batch} serves {world} ranks", fits)
        for world in {*range(1, 13), 33, 128, 1000} - set(worlds):
            if world >= worlds[0]:
                h.ok(not plans(batch, micros[0], world), f"elastic: {batch} does not serve {world} ranks")
    h.ok(not any(plans(9792, m, 64) for m in (8, 12, 16)) and plans(9792, 17, 64), "elastic: 9792 on 64 by 17 alone")
    for micro in ("-1", "-10", "0", "0.5", "a", "null", "[2,4]", ""):
        ran = h.dsrun("plan", "--slots", 4, job, "train.global_batch=24", f"train.micro_batch={micro}")
        h.ok(ran.returncode == 65 and "'train.micro_batch'" in ran.stderr, f"elastic: refused: a micro batch of {micro!r}", ran.stderr)
    for slots in ("-1", "0"):
        ran = h.dsrun("plan", "--slots", slots, job)
        h.ok(ran.returncode == 2, f"elastic: refused: {slots} ranks", ran.stderr)


elastic()
h.done()
