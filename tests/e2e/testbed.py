#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""testbed - the test beds themselves: hosts, faults and Slurm are real, and a bed leaves nothing behind."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import beds
import harness as h

if h.SANITIZED:
    h.skip("test beds", "nothing of ours runs in this test, so a sanitizer finds nothing")
    h.done()
beds.require("slurm")


def traces():
    """What beds of this process could leave: namespaces, folders, cgroups, mounts, processes of their tag."""
    mine = f"dsrun-bed.{os.getpid()}."
    found = [str(p) for p in pathlib.Path("/tmp").glob(mine + "*")]
    found += [line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines() if mine in line]
    for tag in TAGS:
        found += [str(p) for p in pathlib.Path("/run/netns").glob(tag + "-*")]
        for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            found += [str(p) for p in pathlib.Path(root).glob(tag)]
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mine.encode() in (entry / "cmdline").read_bytes():
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


TAGS = []


def tag(bed):
    TAGS.append(re.search(r"^TAG=(\S+)", (bed.base / "bed").read_text(), re.M).group(1))


def until(what, seconds=30):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


def ssh(bed, host, *command):
    return bed.run("ssh", "-o", "ConnectTimeout=2", host, *command)


def hosts():
    with beds.Hosts(4, user="tester", disk="8m") as bed:
        tag(bed)
        said = [ssh(bed, name, "hostname; id -un; echo $$; ls -A /tmp | wc -l").stdout.split() for name in bed.names]
        h.ok([s[:2] for s in said] == [[name, "tester"] for name in bed.names], "ssh reaches each host as the user",
             said)
        bed.on("node1", "touch", "/tmp/mine", "/dev/shm/mine")
        h.ok(bed.on("node2", "ls", "/tmp/mine", "/dev/shm/mine").returncode == 2, "hosts share no /tmp, no /dev/shm")
        h.ok(not bed.processes("node3"), "a host without a login runs nothing", bed.processes("node3"))
        h.ok(bed.run("cat", h.ROOT / "VERSION").stdout == (h.ROOT / "VERSION").read_text(), "the head sees the build")
        network(bed)
        freezing(bed)
        bed.fault("fill", "node1")
        full = bed.on("node1", "sh", "-c", "cat /etc/passwd >/tmp/more")
        bed.fault("heal", "node1")
        h.ok(full.returncode and "No space" in full.stderr and not bed.on(
            "node1", "sh", "-c", "cat /etc/passwd >/tmp/more").returncode, "a full disk, and room again", full.stderr)
        h.ok(not bed.on("node3", "true").returncode, "the other hosts did not notice")
    h.ok(bed.head and not traces(), "nothing is left of it", "\n".join(traces()))


def network(bed):
    """Every fault of the network is seen, and healed."""
    bed.fault("apart:node3", "node2")
    apart = [bed.on("node2", "ssh", "-o", "ConnectTimeout=2", "-o", "BatchMode=yes", name, "true").stderr
             for name in ("node3", "node4")]
    h.ok("timed out" in apart[0] and "timed out" not in apart[1] and not ssh(bed, "node2", "true").returncode,
         "two hosts apart, and both reach the others", apart)
    bed.fault("heal", "node2")
    for action, rc, words in (("unplug", 255, "timed out"), ("drop", 255, "timed out"), ("reject", 255, "refused"),
                              ("loss:99", 255, "timed out"), ("slow:1mbit", 0, "")):
        bed.fault(action, "node2")
        seen = ssh(bed, "node2", "true")
        bed.fault("heal", "node2")
        healed = ssh(bed, "node2", "true")
        h.ok(seen.returncode == rc and words in seen.stderr and healed.returncode == 0, f"{action}, then heal",
             f"{seen.returncode} {seen.stderr}\nhealed: {healed.returncode} {healed.stderr}")


def freezing(bed):
    """A frozen and a stopped host do not answer, and do again; a killed one refuses until it is booted."""
    for action, undo in (("freeze", "thaw"), ("stop", "cont"), ("hang-sshd", "cont")):
        if action == "freeze" and not (bed.base / "hosts" / "node4" / "cgroup").exists():
            h.skip("freeze, then thaw", "no cgroup2 on this machine")
            continue
        bed.fault(action, "node4")
        seen = ssh(bed, "node4", "true")
        bed.fault(undo, "node4")
        h.ok(seen.returncode == 255 and ssh(bed, "node4", "true").returncode == 0, f"{action}, then {undo}",
             seen.stderr)
    job = bed.start("ssh", "node4", "sleep 1000")
    h.ok(until(lambda: "sleep 1000" in bed.processes("node4").values()), "a login is seen to run its program")
    bed.fault("killall", "node4")
    h.ok(job.wait(30) == 255 and not bed.processes("node4"), "killall ends it, and sshd stays")
    for action, words in (("kill", "refused"), ("poweroff", "timed out")):
        bed.fault(action, "node4")
        seen = ssh(bed, "node4", "true")
        bed.fault("boot", "node4")
        h.ok(words in seen.stderr and ssh(bed, "node4", "true").returncode == 0, f"{action}, then boot", seen.stderr)


def aliases():
    with beds.Hosts(0, aliases=300) as bed:
        tag(bed)
        said = [ssh(bed, name, "hostname").stdout.strip() for name in (bed.aliases[0], bed.aliases[299])]
        h.ok(said == ["alias1", "alias300"], "one sshd answers as 300 hosts", said)
    h.ok(not traces(), "nothing is left of it", "\n".join(traces()))


def slurm():
    with beds.Slurm(2, cpus="2 3", gpus=2) as bed:
        tag(bed)
        said = bed.run("srun", "-N2", "--gpus-per-node=1", "sh", "-c",
                       "echo $SLURMD_NODENAME $(hostname) $SLURM_JOB_CPUS_PER_NODE $SLURM_GPUS_ON_NODE")
        h.ok(sorted(said.stdout.splitlines()) == ["node1 node1 1(x2) 1", "node2 node2 1(x2) 1"],
             "srun starts a task on each host", said.stdout + said.stderr)
        said = bed.run("srun", "-N1", "-c3", "hostname")
        h.ok(said.stdout == "node2\n", "nodes may have different sizes", said.stdout + said.stderr)
    h.ok(not traces(), "nothing is left of it", "\n".join(traces()))


def stopped():
    """A test that is told to stop in the middle takes its bed with it."""
    code = "import beds, time\nwith beds.Hosts(2) as bed:\n print(bed.base, flush=True)\n time.sleep(1000)"
    for number in (signal.SIGTERM, signal.SIGINT):
        test = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                text=True, cwd=h.work(), env=dict(os.environ, PYTHONPATH=str(h.ROOT / "tests/e2e")))
        base = pathlib.Path(test.stdout.readline().strip())
        there = (base / "bed").exists()
        tag_of = re.search(r"^TAG=(\S+)", (base / "bed").read_text(), re.M).group(1)
        test.send_signal(number)
        test.wait(60)
        h.ok(there and not base.exists() and not list(pathlib.Path("/run/netns").glob(tag_of + "-*")),
             f"{number.name} to a test takes its bed down")


hosts()
aliases()
slurm()
stopped()
h.done()
