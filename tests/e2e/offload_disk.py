#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""offload_disk - offload.optim: nvme: the bits of a run in memory, checkpoints that go on either way, no name in
the folder whatever ends the run, and what a disk or a folder refuses is said before the first step.
"""
import json
import os
import signal
import subprocess
import time

import harness as h

DISK = h.work() / "disk"
DISK.mkdir()
JOB = h.write_job(steps=8, every=4, keep=9, hidden=64, layers=3, ffn=256, eval=8)


def command(run, *words, slots=2):
    return ("--slots", slots, "--run-dir", run, JOB, f"offload.path={DISK}", *words)


def train(run, *words, **more):
    return h.dsrun(*command(run, *words, **more))


def same(run, name):
    """Are numbers of the steps and every tensor of the last checkpoint those of the run in memory?"""
    diff = h.dsrun("ckpt", "diff", h.work() / "none", h.work() / run)
    h.ok(h.metric_texts(h.work() / "none") == h.metric_texts(h.work() / run) and diff.returncode == 0, name,
         diff.stdout + diff.stderr)


# --- the same bits ----------------------------------------------------------------------------------

for name, words in (("none", ["offload.optim=none"]), ("cpu", ["offload.optim=cpu"]),
                    ("nvme", ["offload.optim=nvme"]), ("behind", ["offload.optim=nvme", "checkpoint.async=true"]),
                    ("stage1", ["offload.optim=nvme", "zero.stage=1"])):
    ran = train(name, *words)
    h.ok(ran.returncode == 0, f"{name}: ends with 0", ran.stderr)
    if name != "none":
        same(name, f"{name}: the bits of states in memory")
h.ok(not os.listdir(DISK), "nothing is in the folder", os.listdir(DISK))

# --- checkpoints go on either way -------------------------------------------------------------------

for first, second in (("none", "nvme"), ("nvme", "none"), ("nvme", "cpu")):
    run = f"{first}-{second}"
    ran = train(run, f"offload.optim={first}", "train.steps=4", "schedule.steps=8")
    ran = train(run, f"offload.optim={second}", "zero.stage=1")
    h.ok(ran.returncode == 0 and "step 8/8" in ran.stdout and "step 4/8" not in ran.stdout,
         f"{run}: goes on from step 4", ran.stdout + ran.stderr)
    same(run, f"{run}: the bits of a run that was not stopped")

# --- killed -----------------------------------------------------------------------------------------


def files_of(pid):
    """Files of the folder that a process has open."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(entry.path))
        except OSError:
            continue
    return [path for path in found if path.startswith(str(DISK))]


process = h.start(*command("killed", "offload.optim=nvme", "train.steps=100000", "schedule.steps=8"))
end, workers = time.monotonic() + 60, {}
while time.monotonic() < end and process.poll() is None and not (h.work() / "killed/checkpoints/latest").exists():
    time.sleep(0.02)
workers = {pid: files_of(pid) for pid, line in h.processes().items() if "dsrun-worker" in line}
h.ok(len(workers) == 2 and all(len(files) == 1 and files[0].endswith("(deleted)") for files in workers.values()),
     "while it runs each rank has a file without a name", f"{workers} {(h.work() / 'start.log').read_text()}")
h.ok(not os.listdir(DISK), "and nothing is in the folder", os.listdir(DISK))
for pid in list(h.processes()):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
process.wait()
h.ok(not h.left() and not os.listdir(DISK), "kill -9 of all: nothing is left", os.listdir(DISK))

# --- refused ----------------------------------------------------------------------------------------


def refused(name, ran, code, *texts):
    h.ok(ran.returncode == code and all(text in ran.stderr for text in texts) and "step 1/" not in ran.stdout, name,
         f"{ran.returncode}\n{ran.stderr}")


ran = train("r", "offload.optim=nvme", f"offload.path={h.work() / 'none-there'}", slots=1)
refused("a folder that is not there", ran, 2, "cannot keep the optimizer's states of rank 0 in",
        "make that folder on a disk of this host")
ran = train("r", "offload.optim=nvme", f"offload.path={JOB}", slots=1)
h.ok(ran.returncode != 0 and "Not a directory" in ran.stderr, "a file in its place", ran.stderr)

FULL = """\
mount -t tmpfs -o size=1m none disk || exit 99
exec {dsrun} --slots 2 --run-dir full {job} offload.optim=nvme offload.path=disk
"""
(h.work() / "full-disk").mkdir()
ran = subprocess.run(["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c",
                      FULL.format(dsrun=h.DSRUN, job=JOB)],
                     capture_output=True, text=True, cwd=h.work(), env=h.environment(), timeout=120, check=False)
if ran.returncode == 99 or "unshare" in ran.stderr:
    h.skip("a disk that is too small", "no mount namespace here")
else:
    refused("a disk that is too small", ran, 1, "no room for the optimizer's states of rank",
            "MiB are wanted and", "MiB are free; free some or name a folder on another disk")

# --- the plan ---------------------------------------------------------------------------------------

plan = {name: json.loads(h.dsrun("plan", "--json", "--schedule", *command("x", f"offload.optim={name}")).stdout)
        for name in ("none", "nvme")}
here, there = plan["none"]["memory"], plan["nvme"]["memory"]
h.ok(there["optimizer"] * 4 < here["optimizer"] <= there["on the disk"] and "on the disk" not in here,
     "plan: rooms in memory, the states on the disk", f"{here}\n{there}")
moves = [i["op"] for i in plan["nvme"]["step"] if "piece" in i]
h.ok(moves.count("LOAD") == moves.count("STORE") == moves.count("UPDATE") > 3 and moves[0] == "LOAD",
     "plan: every piece is loaded, updated and stored", moves)
text = h.dsrun("plan", "--schedule", *command("x", "offload.optim=nvme")).stdout
h.ok("on the disk\n" in text and "written in each step" in text and " piece-0" in text, "plan: the table says so", text)
h.done()
