#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""slots - the GPUs that jobs get: counted, or chosen by --include and by hostfiles, the same for every command.

The GPUs are the doubles of tests/fakes/, of which CUDA_VISIBLE_DEVICES chooses some; one that is full tells
which of them was asked.
"""
import json
import shutil

import harness as h
from devices import FAKES, case_job, done, require

ENV = {"DSRUN_LIBEXEC": str(FAKES), "FAKE_CUDA_DEVICES": "4"}
MACHINE = """\
hosts: 1
ranks: 1
device: {flops: {fp32: 100e9}, bandwidth: 10e9}
link: {host: {bandwidth: 5e9, latency_us: 5}}
"""


def hostfile(text):
    path = h.work() / "hosts.yaml"
    path.write_text(f"hosts: [{{name: localhost, {text}}}]\n")
    return path


def trains(title, job, ranks, *words, **env):
    """A job that ends well; what its ranks were told of GPUs is CUDA's to say."""
    run = h.work() / "".join(c if c.isalnum() else "-" for c in title)
    ran = h.dsrun("--run-dir", run, *words, job, **{**ENV, **env})
    world = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()] if run.exists() else []
    said = [e["world"] for e in world if e.get("event") == "start"]
    h.ok(ran.returncode == 0 and said == [ranks], f"{title}: {ranks} ranks, exit code 0",
         f"{ran.returncode} {said}\n{ran.stdout}{ran.stderr}")


def fails(title, code, words, *args, **env):
    ran = h.dsrun(*args, **{**ENV, **env})
    text = ran.stdout + ran.stderr
    h.ok(ran.returncode == code and words in text, f"{title}: {code}, '{words}'", f"{ran.returncode}\n{text}")


def counted():
    """One rank for each GPU, where nobody says how many."""
    job, _ = case_job("gpt2-tiny", every=0)
    free, _ = case_job("gpt2-tiny", every=0, device="auto")
    none = h.work() / "bare"
    none.mkdir()
    for name in ("dsrun-worker", "dsrun-agent"):
        (none / name).symlink_to(FAKES / name)
    one, few = h.work() / "one", h.work() / "few"
    one.write_text("localhost\n")
    few.write_text("localhost max_slots=2\n")
    for title, ranks, words, env in (
            ("all GPUs", 4, [job], {}), ("device auto", 4, [free], {}), ("on the CPU", 1, [job, "launch.device=cpu"], {}),
            ("--slots", 2, [job, "--slots", 2], {}), ("launch.slots", 2, [job, "launch.slots=2"], {}),
            ("a host without slots", 4, [job, "-H", one], {}), ("one that may have two", 2, [job, "-H", few], {}),
            ("one that has some", 2, [job, "-H", hostfile("slots: 2")], {}),
            ("all but two", 2, [job, "-e", "localhost:0,2"], {}), ("two are visible", 2, [job], {"CUDA_VISIBLE_DEVICES": "1,2"}),
            ("--env", 2, [job, "--env", "CUDA_VISIBLE_DEVICES=3,0"], {}),
            ("none is there", 1, [free], {"FAKE_CUDA_DEVICES": "0"}),
            ("no plug-in", 1, [free], {"DSRUN_LIBEXEC": str(none)})):
        ran = h.dsrun("plan", "--json", *words, **{**ENV, **env})
        found = len(json.loads(ran.stdout)["placement"]) if ran.returncode == 0 else ran.stderr
        h.ok(found == ranks, f"counted: {title}: {ranks}", found)
    fails("more than a host may have", 2, "3 slots on host 'localhost': its max_slots are 2", "check", "-H", few, job,
          "launch.slots=3")
    trains("a rank for each GPU", job, 4)
    fails("ranks that the batch is not a multiple of", 65, "ranks x micro_batch = 3 x 2", "check", job, FAKE_CUDA_DEVICES="3")


def elsewhere():
    """Other hosts are asked for their GPUs (count.py), where somebody has to; who says how many slots asks nobody."""
    job, _ = case_job("gpt2-tiny", every=0)
    hosts = h.work() / "elsewhere"
    words = ("-H", hosts, "--via", "ssh", "--run-dir", h.work() / "elsewhere-run")
    for lines in ("localhost\nnode1.invalid\n", "node1.invalid\n"):
        hosts.write_text(lines)
        fails(f"a host elsewhere that gives no answer, of {len(lines.split())}", 69, "host 'node1.invalid'", *words, job)
    h.ok(not (h.work() / "elsewhere-run").exists(), "nothing has begun")
    for title, more in (("on the CPU", ["launch.device=cpu"]), ("with --slots", ["--slots", "2"]),
                        ("with -i", ["-i", "node1.invalid:3"])):
        ran = h.dsrun(*words, job, *more, **ENV)
        h.ok(ran.returncode == 69 and (h.work() / "elsewhere-run").exists(), f"a host elsewhere {title}: nobody is asked",
             ran.stdout + ran.stderr)
        shutil.rmtree(h.work() / "elsewhere-run", ignore_errors=True)


def chosen(job):
    """By slots of this machine, without a hostfile."""
    trains("the second half", job, 2, "-i", "localhost:2,3")
    fails("slots beyond the GPUs", 2, "host 'localhost' has no slot 4: its slots are 0 to 3", "-i", "localhost:4", job)
    fails("a full GPU", 65, "the GPU has", "--run-dir", "full", "-i", "localhost:2", job, FAKE_CUDA_FULL="2")
    trains("beside a full GPU", job, 1, "-i", "localhost:3", FAKE_CUDA_FULL="0")
    trains("slots within what is visible", job, 1, "-i", "localhost:1", CUDA_VISIBLE_DEVICES="0,3", FAKE_CUDA_FULL="1")
    fails("slots beyond what is visible", 2, "has no slot 2: its slots are 0 to 1", "-i", "localhost:2", job,
          CUDA_VISIBLE_DEVICES="0,3")
    fails("slots of a hostfile beyond what is visible", 2, "'CUDA_VISIBLE_DEVICES' names 2 devices and no one for slot 2", "-H",
          hostfile("slots: 4"), "-i", "localhost:2", job, CUDA_VISIBLE_DEVICES="0,3")
    trains("--env goes before", job, 1, "-i", "localhost:0", "--env", "CUDA_VISIBLE_DEVICES=3", FAKE_CUDA_FULL="0")
    fails("launch.env, too", 65, "the GPU has", "--run-dir", "env", job, "--slots", "1", "launch.env={CUDA_VISIBLE_DEVICES: 3}",
          FAKE_CUDA_FULL="3")


def named(job):
    """By the hostfile."""
    hosts = hostfile("devices: [3, 1]")
    trains("devices of a hostfile", job, 2, "-H", hosts, FAKE_CUDA_FULL="0")
    fails("the first that is named", 65, "the GPU has", "--run-dir", "named", "-H", hosts, job, FAKE_CUDA_FULL="3")
    trains("a slot of them", job, 1, "-H", hosts, "-i", "localhost:1", FAKE_CUDA_FULL="3")


def alike(job):
    """A slot without a device is one mistake, whoever would start the ranks."""
    config = h.work() / "config/dsrun"
    config.mkdir(parents=True)
    (config / "machine.yaml").write_text(MACHINE)
    hosts = hostfile("slots: 2, devices: [5]")
    for words in (("run", job), ("check", job), ("plan", job), ("tune", job), ("launch", "--", "true")):
        fails(f"{words[0]}: a slot without a device", 2, "host 'localhost' has 1 devices and no one for slot 1", words[0],
              "-H", hosts, *words[1:])
    ran = h.dsrun("check", "-H", hosts, job, "launch.device=cpu", **ENV)
    h.ok(ran.returncode == 0, "a job on the CPU has no use for devices", ran.stderr)
    fails("trials of tune have the GPU that was chosen", 1, "no GPU that this process may use", "tune", "--trials", "1", "-H",
          hostfile("devices: [4]"), job, XDG_CONFIG_HOME=str(config.parent))
    fails("tune on a full GPU", 65, "no layout fits", "tune", "--trials", "1", "-i", "localhost:3", job,
          XDG_CONFIG_HOME=str(config.parent), FAKE_CUDA_FULL="3")


require()
train, _ = case_job("gpt2-tiny", every=0)
counted()
elsewhere()
chosen(train)
named(train)
alike(train)
done()
