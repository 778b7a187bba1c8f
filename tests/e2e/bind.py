#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""bind - cores and memory of ranks, and their GPUs, which no other job may have, on a machine of two NUMA nodes and two GPUs.

The machine is this one in a mount namespace where sysfs, procfs and /dev say so: each of two real cores is
a node, GPU 0 is near the second and GPU 1 near the first.
"""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import harness as h

CORES = sorted(os.sched_getaffinity(0))[:2]
FIRST, SECOND = "0000:01:00.0", "0000:c2:00.0"
INFORMATION = "Model: \t\t Test GPU\nGPU UUID: \t GPU-{minor}\nBus Location: \t {pci}\nDevice Minor: \t {minor}\n"
MOUNTS = """
set -e
for folder in /sys/devices/system/node /sys/bus/pci/devices /proc/driver "$1"; do mount -t tmpfs none "$folder"; done
for name in null zero full random urandom tty; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
mkdir "$1/shm" "$1/pts"
mount --rbind /dev/shm "$1/shm"
mount --rbind /dev/pts "$1/pts"
ln -s /proc/self/fd "$1/fd"
touch "$1/nvidia0" "$1/nvidia1"
mount --rbind "$1" /dev
mkdir -p /run/lock
mount -t tmpfs -o mode=1777 none /run/lock
cd /proc/driver && mkdir nvidia
cp -r "$2/nodes/." /sys/devices/system/node
cp -r "$2/pci/." /sys/bus/pci/devices
cp -r "$2/gpus" /proc/driver/nvidia
echo ready
exec cat
"""


class Machine:
    """The namespace, as long as it is wanted."""

    def __init__(self):
        tree, dev = h.work() / "tree", h.work() / "dev"
        dev.mkdir()
        for node, core in enumerate(CORES):
            self._put(tree / f"nodes/node{node}/cpulist", f"{core}\n")
        for minor, (pci, node) in enumerate(((FIRST, 1), (SECOND, 0))):
            self._put(tree / f"gpus/{pci}/information", INFORMATION.format(minor=minor, pci=pci))
            self._put(tree / f"pci/{pci}/numa_node", f"{node}\n")
            self._put(tree / f"pci/{pci}/local_cpulist", f"{CORES[node]}\n")
        self._process = subprocess.Popen(["unshare", "--mount", "sh", "-c", MOUNTS, "sh", str(dev), str(tree)], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.good = self._process.stdout.readline() == "ready\n"
        self.why = "" if self.good else self._process.stderr.read().strip()

    @staticmethod
    def _put(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def command(self, *args):
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "taskset", "-c", f"{CORES[0]},{CORES[1]}",
                "sh", "-c", 'cd "$0" && exec "$@"', str(h.work()), *map(str, args)]

    def run(self, *args, **env):
        return subprocess.run(self.command(*args), capture_output=True, text=True, timeout=120 * h.PATIENCE, check=False,
                              env=h.environment(**env))

    def dsrun(self, *args, **env):
        return self.run(h.DSRUN, *args, **env)

    def start(self, *args, **env):
        return subprocess.Popen(self.command(h.DSRUN, *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env=h.environment(**env))

    def end(self):
        self._process.stdin.close()
        self._process.wait()


def events(run):
    return [event for event in map(json.loads, (h.work() / run / "events.jsonl").read_text().splitlines())
            if event["event"] == "cores"]


def where(machine, *options, run=None, **env):
    """{local rank: the cores that its process really has}"""
    ran = machine.dsrun("launch", *(["--run-dir", run] if run else []), *options, "--", "sh", "-c",
                        "echo at $LOCAL_RANK $(sed -n 's/^Cpus_allowed_list:\\t//p' /proc/self/status) $DSRUN_CORES", **env)
    found = {}
    for rank, real, told in re.findall(r"at (\d+) (\S+) (\S+)", ran.stdout):
        found[int(rank)] = real if real == told else f"{real} but told {told}"
    return found, ran.stdout + ran.stderr


def cores(machine):
    low, high = map(str, CORES)
    found, text = where(machine, "--slots", 2, run="both")
    h.ok(found == {0: high, 1: low}, "each rank has the core near its GPU", text)
    told = events("both")
    h.ok([(e["rank"], e["cores"], e["gpu"]) for e in sorted(told, key=lambda e: e["rank"])] ==
         [(0, high, FIRST), (1, low, SECOND)], "events.jsonl says so", told)
    h.ok(all(("memory_node" in e) != ("memory" in e) for e in told), "and of the memory, or why not", told)
    found, text = where(machine, "--slots", 2, "--env", "CUDA_VISIBLE_DEVICES=1,0")
    h.ok(found == {0: low, 1: high}, "CUDA_VISIBLE_DEVICES turns them round", text)
    found, text = where(machine, "--slots", 2, "--env", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-0")
    h.ok(found == {0: low, 1: high}, "by UUID, too", text)
    found, text = where(machine, "--slots", 2, "--env", "CUDA_VISIBLE_DEVICES=")
    h.ok(found == {0: low, 1: high}, "without GPUs each rank has a node", text)
    found, text = where(machine, "--slots", 3, run="many")
    h.ok(found == {0: low, 1: high, 2: low} and all("more cores" in e["in_order"] for e in events("many")),
         "more ranks than cores: in order, and events.jsonl says why", text)
    ran = machine.dsrun("launch", "--slots", 2, "--dry-run", "--", "true")
    h.ok(re.search(rf"^rank 0 .* cores {high}  gpu {FIRST}$", ran.stdout, re.M) and
         re.search(rf"^rank 1 .* cores {low}  gpu {SECOND}$", ran.stdout, re.M), "--dry-run says it before", ran.stdout)
    ran = machine.dsrun("launch", "--slots", 2, "--dry-run", "--json", "--env", "CUDA_VISIBLE_DEVICES=1,0", "--", "true")
    h.ok([(p["cpus"], p["gpu"]) for p in json.loads(ran.stdout)["placement"]] == [(low, SECOND), (high, FIRST)],
         "and as JSON, with what the ranks will be given", ran.stdout)
    ran = machine.dsrun("hosts")
    h.ok(re.search(r"^  numa +2$", ran.stdout, re.M) and re.search(r"^  gpu numa +1,0$", ran.stdout, re.M),
         "dsrun hosts counts nodes", ran.stdout)


def memory(machine):
    """Node 0 there is on every machine; GPU 1 is near it."""
    ran = machine.dsrun("launch", "--run-dir", "memory", "--env", "CUDA_VISIBLE_DEVICES=1", "--", "cat", "/proc/self/numa_maps")
    told = events("memory")
    if not h.ok(len(told) == 1 and told[0]["gpu"] == SECOND, "one rank has the second GPU", told):
        return
    if "memory" in told[0]:
        h.skip("memory of the node", told[0]["memory"])
        return
    h.ok(told[0]["memory_node"] == 0 and "prefer" in ran.stdout, "its memory is preferred there", ran.stdout)


def training(machine):
    """The same number of threads on other cores: the same bits."""
    h.text_file()
    job = h.write_job()
    one = machine.dsrun("--slots", 2, "--run-dir", "here", job, "launch.device=cpu")
    other = subprocess.run(["taskset", "-c", f"{CORES[0]},{CORES[1]}", h.DSRUN, "--slots", "2", "--run-dir", "there", job,
                            "launch.device=cpu"], capture_output=True, text=True, timeout=120 * h.PATIENCE, check=False,
                           cwd=h.work(), env=h.environment())
    h.ok(one.returncode == 0 and other.returncode == 0 and
         h.metric_texts(h.work() / "here") == h.metric_texts(h.work() / "there"), "training has the same bits on any cores",
         one.stderr + other.stderr)
    h.ok(all("gpu" not in event for event in events("here")), "a job on the CPU has no GPU", events("here"))


def held(machine, *options, **env):
    """A job that keeps what it asked for until its line is closed."""
    job = machine.start("launch", "--grace", 1, *options, "--", "sh", "-c", "echo up; exec sleep 300", **env)
    line = job.stdout.readline()
    if "up" not in line:
        h.ok(False, "a job that holds a GPU", line + job.stdout.read())
    return job


def stop(job):
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60 * h.PATIENCE)


def files(machine):
    return machine.run("ls", "/run/lock").stdout.split()


def locks(machine):
    only = ("--env", "CUDA_VISIBLE_DEVICES=0")
    first = held(machine, "--run-dir", "first", *only)
    ran = machine.dsrun("launch", *only, "--", "true")
    text = ran.stdout + ran.stderr
    found = re.search(rf"GPU {FIRST} of host '{re.escape(socket.gethostname())}' is in use by another job of dsrun "
                      rf"\(job {first.pid} 'sh' of host '{re.escape(socket.gethostname())}', run directory "
                      rf"'{h.work()}/first', process (\d+) of user 0\)", text)
    h.ok(ran.returncode == 69 and found, "a second job on the GPU ends with 69 and is told why", f"{ran.returncode}\n{text}")
    h.ok(found and pathlib.Path(f"/proc/{found[1]}/cmdline").read_text().split("\0")[0].endswith("dsrun-agent"),
         "it names the process that has it", text)
    for what, options in {"the other GPU is free": ("--env", "CUDA_VISIBLE_DEVICES=1"),
                          "a program that asked for none runs": (),
                          "so does one without GPUs": ("--env", "CUDA_VISIBLE_DEVICES=")}.items():
        ran = machine.dsrun("launch", *options, "--", "true")
        h.ok(ran.returncode == 0, what, ran.stdout + ran.stderr)
    ran = machine.dsrun("launch", *only, "--", "true", DSRUN_CUDA_SHARE="1")
    h.ok(ran.returncode == 69, "who has it alone does not share it", ran.stdout + ran.stderr)
    h.ok("rank 0 on " in text and "was not started: another job holds a GPU of that host" in text, "so says the cause", text)
    listed = machine.dsrun("ps").stdout
    h.ok(re.search(rf"^{first.pid} +sh +.* {h.work()}/first$", listed, re.M), "dsrun ps shows the same job", listed)
    stop(first)
    h.ok(files(machine) == [], "the file goes with the job", files(machine))
    ran = machine.dsrun("launch", *only, "--", "true")
    h.ok(ran.returncode == 0 and files(machine) == [], "then the GPU is free", ran.stdout + ran.stderr)

    first = held(machine, *only, "--env", "DSRUN_CUDA_SHARE=1")
    ran = machine.dsrun("launch", "--slots", 3, *only, "--env", "DSRUN_CUDA_SHARE=1", "--", "true")
    h.ok(ran.returncode == 0, "jobs that both say so share a GPU, ranks of one job too", ran.stdout + ran.stderr)
    ran = machine.dsrun("launch", *only, "--", "true")
    h.ok(ran.returncode == 69, "and keep out who does not", ran.stdout + ran.stderr)
    stop(first)

    first = held(machine, *only)
    agent = int(machine.run("cat", f"/run/lock/dsrun-gpu-{FIRST}").stdout.split()[0])
    os.kill(agent, signal.SIGKILL)
    first.communicate(timeout=60 * h.PATIENCE)
    ran = machine.dsrun("launch", *only, "--", "true")
    h.ok(ran.returncode == 0 and files(machine) == [], "an agent that is killed holds nothing", ran.stdout + ran.stderr)


def again(machine):
    """A GPU that is held is waited for where restarts after `start` are wanted, and only there."""
    only = ("--env", "CUDA_VISIBLE_DEVICES=0")
    first = held(machine, *only)
    ran = machine.dsrun("launch", "--restarts", 3, "--restart-on", "rank,comm,host-lost", *only, "--", "true")
    text = ran.stdout + ran.stderr
    h.ok(ran.returncode == 69 and text.count("is in use by another job") == 1 and "'start' is not in launch.restart_on" in text,
         "held, and no restart after start: one try", text)
    job = h.write_job()
    ran = machine.dsrun("--run-dir", "held", "--restarts", 3, "--restart-backoff", 0, job, "launch.device=cuda")
    text = ran.stdout + ran.stderr
    h.ok(ran.returncode == 69 and text.count("is in use by another job") == 4 and "all restarts are used up" in text,
         "held for longer than the restarts last: 69 after the last", text)
    told = [e for e in map(json.loads, (h.work() / "held/events.jsonl").read_text().splitlines()) if e["event"] == "failure"]
    h.ok([e["class"] for e in told] == ["start"] * 4, "of the class start", told)
    second = machine.start("launch", "--restarts", 9, "--restart-backoff", 0.2, *only, "--", "echo", "mine")
    for line in second.stdout:
        if "starting again" in line:
            break
    stop(first)
    rest = second.communicate(timeout=120 * h.PATIENCE)[0]
    h.ok(second.returncode == 0 and "mine" in rest, "let go meanwhile: the next try has it", rest)


def unlockable(machine):
    """What another user can do to the file: the job runs, and says what it lacks."""
    name, only = f"/run/lock/dsrun-gpu-{FIRST}", ("--env", "CUDA_VISIBLE_DEVICES=0")
    machine.run("ln", "-s", str(h.work() / "victim"), name)
    ran = machine.dsrun("launch", *only, "--", "true")
    h.ok(ran.returncode == 0 and "GPUs are not locked" in ran.stdout + ran.stderr and not (h.work() / "victim").exists(),
         "a link in its place is not followed: a warning", ran.stdout + ran.stderr)
    machine.run("rm", name)


def seats(machine):
    """Training takes a GPU per rank; a job on the CPU none."""
    only = ("--env", "CUDA_VISIBLE_DEVICES=0")
    first = held(machine, *only)
    job = h.write_job()
    ran = machine.dsrun("--run-dir", "busy", job, "launch.device=cuda")
    h.ok(ran.returncode == 69 and f"GPU {FIRST}" in ran.stdout + ran.stderr, "training on a busy GPU ends with 69",
         f"{ran.returncode}\n{ran.stdout}{ran.stderr}")
    ran = machine.dsrun("--run-dir", "idle", job, "launch.device=cpu")
    h.ok(ran.returncode == 0, "training on the CPU asks for none", ran.stdout + ran.stderr)
    hosts = h.work() / "second.yaml"
    hosts.write_text("hosts: [{name: localhost, devices: [1]}]\n")
    for run, chosen in (("slot", ("-i", "localhost:1")), ("named", ("-H", hosts))):
        ran = machine.dsrun("--dry-run", *chosen, job, "launch.device=cuda")
        h.ok(f"gpu {SECOND}" in ran.stdout and FIRST not in ran.stdout, f"{run}: --dry-run shows the GPU that was chosen",
             ran.stdout + ran.stderr)
        ran = machine.dsrun("--run-dir", run, *chosen, job, "launch.device=cuda")
        text = ran.stdout + ran.stderr
        h.ok("is in use by another job" not in text and [e["gpu"] for e in events(run)] == [SECOND],
             f"{run}: the GPU that was chosen is another one", text)
    stop(first)
    first = held(machine, "--env", "CUDA_VISIBLE_DEVICES=1")
    ran = machine.dsrun("--run-dir", "both", "-i", "localhost:1", job, "launch.device=cuda")
    h.ok(ran.returncode == 69 and f"GPU {SECOND}" in ran.stdout + ran.stderr, "it is the one that is locked",
         f"{ran.returncode}\n{ran.stdout}{ran.stderr}")
    stop(first)


def main():
    machine = None
    if len(CORES) < 2:
        h.skip("binding", "this machine has one core")
    elif os.geteuid() != 0:
        h.skip("binding", "only root may make such a machine")
    else:
        machine = Machine()
        if machine.good:
            for test in (cores, memory, training, locks, again, unlockable, seats):
                test(machine)
        else:
            h.skip("binding", f"no such mount namespace here: {machine.why}")
        machine.end()
    h.ok(not h.left(), "nothing is left", h.left())
    h.done()


if __name__ == "__main__":
    sys.exit(main())
