#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""count - ranks for the GPUs of other hosts, which are asked where nobody says how many slots they have.

Three real hosts, each with as many devices of the fake runtime (tests/fakes/) as a file in its own /tmp says:
a script in place of the worker reads it.  How often a host is logged in to is its sshd's to say.
"""
import json
import shutil
import signal
import time

import beds
import harness as h
from devices import FAKES, case_job, done, require

WORKER = """#!/bin/sh
read FAKE_CUDA_DEVICES 2>/dev/null </tmp/gpus && export FAKE_CUDA_DEVICES
[ "$1" != device ] || [ ! -x /tmp/answer ] || exec /tmp/answer
exec {real} "$@"
"""
GPUS = {"node1": 2, "node2": 3, "node3": 1}


def libexec():
    """A folder of programs whose worker is that script; the agent looks for it beside itself."""
    folder = h.work() / "libexec"
    folder.mkdir()
    shutil.copy(FAKES / "dsrun-agent", folder)
    (folder / "dsrun-cuda.so").symlink_to(FAKES / "dsrun-cuda.so")
    (folder / "dsrun-worker").write_text(WORKER.format(real=FAKES / "dsrun-worker"))
    (folder / "dsrun-worker").chmod(0o755)
    return folder


def hosts(*lines):
    path = h.work() / f"hosts-{len(list(h.work().glob('hosts-*')))}"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def run(bed, *words, **env):
    """dsrun on the head; with it how many logins there were, and a run directory of its own."""
    folder = h.work() / f"run-{len(list(h.work().glob('run-*')))}"
    before = logins()
    ran = bed.run(h.DSRUN, "--via", "ssh", "--run-dir", folder, "--env", f"FAKE_NCCL_FOLDER={h.work()}", *words,
                  DSRUN_LIBEXEC=str(LIBEXEC), **env)
    return ran, folder, logins() - before


def logins():
    return LOG.read_text().count("--end--")


def ranks(folder):
    """{host: ranks} of a run that began."""
    path = folder / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    began = [dict(zip(e["hosts"], e["local"])) for e in events if e.get("event") == "launch"]
    return began[0] if began else {}


def answer(bed, host, script):
    """What the worker of a host does when it is asked; None: what is right."""
    bed.on(host, "sh", "-c", "rm -f /tmp/answer" if script is None else
           f"printf '#!/bin/sh\\n{script}\\n' >/tmp/answer; chmod 755 /tmp/answer")


def counts(bed):
    """How many ranks a job has where, and what it costs to know."""
    all_of, some = hosts(*GPUS), hosts("node1", "node2 max_slots=2", "node3 slots=1")
    asked = 2  # logins to each host: one more than where nothing is asked
    for title, want, each, words in (
            ("a rank for each GPU", GPUS, asked, ["-H", all_of, JOB, "train.global_batch=12"]),
            ("one host is asked", {"node2": 3}, asked, ["-H", all_of, "-i", "node2", JOB, "train.global_batch=6"]),
            ("no more than a host may have, and who says is not asked", {"node1": 2, "node2": 2, "node3": 1}, None,
             ["-H", some, JOB, "train.global_batch=10"]),
            ("hosts that are used alone are asked", {"node1": 2}, asked, ["-H", all_of, "--nodes", "1", JOB]),
            ("all slots but one that were counted", {"node1": 2, "node2": 2}, asked,
             ["-H", all_of, "-e", "node2:1@node3", JOB, "train.global_batch=8"]),
            ("slots that are chosen", {"node2": 1}, 1, ["-H", all_of, "-i", "node2:2", JOB]),
            ("--slots", {"node1": 1, "node2": 1, "node3": 1}, 1, ["-H", all_of, "--slots", "1", JOB, "train.global_batch=6"]),
            ("launch.slots", {"node1": 2}, 1, ["-H", all_of, "-i", "node1", JOB, "launch.slots=2"]),
            ("what ranks are hidden is not counted", {"node2": 2}, asked,
             ["-H", all_of, "-i", "node2", "--env", "CUDA_VISIBLE_DEVICES=0,2", JOB]),
            ("a job on the CPU", {"node1": 1, "node2": 1, "node3": 1}, 1,
             ["-H", all_of, JOB, "launch.device=cpu", "train.global_batch=6"])):
        ran, folder, times = run(bed, *words)
        paid = times if each is None else times / len(want)
        h.ok(ran.returncode == 0 and ranks(folder) == want and paid == (5 if each is None else each),
             f"{title}: {want}, {paid:g} logins", f"{ran.returncode} {ranks(folder)} {times}\n{ran.stdout}{ran.stderr}")


def without(bed):
    """A job that may do without GPUs has one rank on a host that has none."""
    bed.on("node3", "sh", "-c", "echo 0 >/tmp/gpus")
    ran, folder, _ = run(bed, "-H", hosts("node3"), JOB, "launch.device=auto")
    h.ok(ran.returncode == 0 and ranks(folder) == {"node3": 1}, "no GPU, device auto: one rank", ran.stdout + ran.stderr)
    bed.on("node3", "sh", "-c", "echo 1 >/tmp/gpus")


def dry(bed):
    """What starts nothing asks nobody, and says so."""
    said = "nobody says how many slots host 'node1' has: its GPUs are counted when the job starts"
    for words in (["--dry-run"], ["plan"]):
        before = logins()
        ran = bed.run(h.DSRUN, *words, "--via", "ssh", "-H", hosts("node1", "node2"), JOB, DSRUN_LIBEXEC=str(LIBEXEC))
        h.ok(ran.returncode == 0 and said in ran.stderr and logins() == before, f"{words[0]} asks nobody and says so",
             f"{ran.returncode} {ran.stdout}{ran.stderr}")
    ran = bed.run(h.DSRUN, "--dry-run", "--via", "ssh", "-H", hosts("node1", "node2"), JOB, "launch.device=cpu",
                  DSRUN_LIBEXEC=str(LIBEXEC))
    h.ok(ran.returncode == 0 and "nobody says" not in ran.stderr, "and of a job on the CPU nothing", ran.stderr)


def fails(bed):
    """Nothing begins where a host gives no answer."""
    two = hosts("node1", "node2")
    for title, script, words in (
            ("nonsense", "echo many", "host 'node2' does not say how many GPUs it has"),
            ("a page of nonsense", "yes 1 1 | head -c 100000", "host 'node2' does not say how many GPUs it has"),
            ("nothing", "true", "host 'node2' does not say how many GPUs it has"),
            ("an error", "exit 9", "cannot ask for the GPUs of host 'node2'")):
        answer(bed, "node2", script)
        ran, folder, _ = run(bed, "-H", two, JOB)
        h.ok(ran.returncode == 69 and words in ran.stderr and not folder.exists(), f"{title}: 69, '{words}'",
             f"{ran.returncode} {ran.stdout}{ran.stderr}")
    answer(bed, "node2", None)
    ran, folder, _ = run(bed, "-H", hosts("node1", "node9"), JOB)
    h.ok(ran.returncode == 69 and "host 'node9'" in ran.stderr and not folder.exists(), "a host that is not there: 69",
         f"{ran.returncode} {ran.stderr}")
    stopped(bed, two)
    h.ok(not any(bed.processes(name) for name in bed.names), "nothing is left on any host",
         {name: bed.processes(name) for name in bed.names})


def stopped(bed, two):
    """A signal while hosts are asked is one before anything began."""
    answer(bed, "node2", "touch /tmp/asked; exec sleep 1000")
    for number in (signal.SIGINT, signal.SIGTERM):
        bed.on("node2", "rm", "-f", "/tmp/asked")
        job = bed.start(h.DSRUN, "--via", "ssh", "-H", two, "--run-dir", h.work() / "stopped", JOB, DSRUN_LIBEXEC=str(LIBEXEC))
        end = time.monotonic() + 30
        while bed.on("node2", "test", "-e", "/tmp/asked").returncode and time.monotonic() < end:
            time.sleep(0.1)
        job.send_signal(number)
        h.ok(job.wait(60) == -number and not (h.work() / "stopped").exists(), f"{number.name} while hosts are asked",
             job.returncode)
    answer(bed, "node2", None)


def slurm():
    """In an allocation that says nothing of GPUs, through a step."""
    with beds.Slurm(2, seen=[FAKES]) as bed:
        for host, gpus in list(GPUS.items())[:2]:
            bed.on(host, "sh", "-c", f"echo {gpus} >/tmp/gpus")
        folder = h.work() / "slurm"
        ran = bed.run("salloc", "-N2", h.DSRUN, "--run-dir", folder, "--env", f"FAKE_NCCL_FOLDER={h.work()}",
                      JOB, "train.global_batch=10", DSRUN_LIBEXEC=str(LIBEXEC))
        h.ok(ran.returncode == 0 and ranks(folder) == {"node1": 2, "node2": 3}, "nodes of an allocation are asked",
             f"{ran.returncode} {ranks(folder)} {ran.stdout}{ran.stderr}")


require()
beds.require()
LIBEXEC = libexec()
JOB, _ = case_job("gpt2-tiny", every=0)
LOG = h.work() / "logins"
with beds.Hosts(3, sshd=beds.recording_sshd(LOG), seen=[FAKES]) as real:
    for name, number in GPUS.items():
        real.on(name, "sh", "-c", f"echo {number} >/tmp/gpus")
    counts(real)
    without(real)
    dry(real)
    fails(real)
if beds.missing("slurm"):
    h.skip("nodes of an allocation are asked", beds.missing("slurm"))
else:
    slurm()
done()
