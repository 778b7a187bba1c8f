# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""part_device - parts of check.py: how a job uses the device: graphs, waits of the host, memory."""
import json
import threading

import harness as h
import machine
from jobs import MEMORY, clock, environment, events, job_of, setting, train


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
