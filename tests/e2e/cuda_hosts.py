#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""cuda_hosts - shard groups on GPUs without one: communicators that NCCL splits from the first.

Two real hosts of two ranks each, every rank with a device of the fake runtime (tests/fakes/): with
`zero.shard_group: node` shares lie in a group of each host and are summed across in groups of two, so every
collective but the flags goes through a split.  Sums have the doubles' order, which depends on the groups: the
stages agree with each other to the bit, and with one group of all ranks within 1e-6.
"""
import beds
import harness as h
import reference

STEPS, LIMIT, ORDER = 2, 1e-4, 1e-6
FAKES = h.BUILD / "fakes" / "libexec"


def trains(bed, title, *keys, env=(), refused=False):
    run = h.work() / "".join(c if c.isalnum() else "-" for c in title)
    ran = bed.run(h.DSRUN, "-q", "-H", hosts, "--via", "ssh", "--env", "FAKE_CUDA_DEVICES=2", "--env",
                  f"FAKE_NCCL_FOLDER={h.work()}", *env, "--run-dir", run, job,
                  *keys, DSRUN_LIBEXEC=str(FAKES), timeout=300)
    if refused:
        h.ok(ran.returncode not in (0, 70) and "NCCL" in ran.stderr, f"{title}: refused", ran.stdout + ran.stderr)
        return None
    if not h.ok(ran.returncode == 0, f"{title}: trains", ran.stdout + ran.stderr):
        return None
    got = h.metrics(run)
    worst = max(abs(g[k] - w[k]) / abs(w[k]) for g, w in zip(got, want) for k in ("loss", "grad_norm"))
    h.ok(len(got) == STEPS and worst < LIMIT, f"{title}: loss and norm within {LIMIT:g} of float64", worst)
    return run


def near(a, b):
    return all(abs(x[k] - y[k]) <= ORDER * abs(y[k]) for x, y in zip(h.metrics(a), h.metrics(b))
               for k in ("loss", "grad_norm"))


beds.require()
if not (FAKES / "dsrun-cuda.so").exists():
    h.skip("cuda_hosts", "the emulation switches stacks on x86-64 and aarch64 only")
    h.done()
case = reference.CASES / "gpt2-tiny"
want = reference.load(case, "expected")[:STEPS]
job = h.work() / "job.yaml"
job.write_text(reference.job_text(case, STEPS, micro=2, compute="fp32") + """\
launch: {device: cuda, threads: 1}
""")
hosts = h.work() / "two.hosts"
hosts.write_text("node1 slots=2\nnode2 slots=2\n")
with beds.Hosts(2) as real:
    interface = real.on("node1", "ip", "-o", "-4", "addr", "show", "scope", "global").stdout.split()[1]
    trains(real, "NCCL speaks on the interface of the ranks", "zero.stage=1", env=("--env", f"FAKE_NCCL_IFNAME=={interface}"))
    trains(real, "and on no other", "zero.stage=1", env=("--env", "FAKE_NCCL_IFNAME==lo"), refused=True)
    whole = trains(real, "stage 2, all ranks share", "zero.stage=2")
    runs = [trains(real, f"stage {stage}, ranks of a host share", f"zero.stage={stage}", "zero.shard_group=node")
            for stage in (1, 2, 3)]
    if whole and all(runs):
        texts = [h.metric_texts(run) for run in runs]
        h.ok(texts[1] == texts[2], "stages 2 and 3, ranks of a host share: the same bits", texts)
        h.ok(near(runs[0], runs[1]), "stages 1 and 2, ranks of a host share: within 1e-6", texts)
        h.ok(near(runs[1], whole), "ranks of a host share, or all: within 1e-6", (texts[1], h.metric_texts(whole)))
    h.ok(not any(real.processes(host) for host in real.names), "nothing is left on any host",
         {host: real.processes(host) for host in real.names})
h.done()
