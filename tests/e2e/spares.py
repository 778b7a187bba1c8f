#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""spares - dsrun launch goes on without a host: another of the hostfile takes its place, over ssh on real hosts.

The same for training: bits.py and campaign.py.  Which host is replaced when: tests/launcher/test_spares.c.
"""
import json
import re
import subprocess
import time

import beds
import harness as h

LIMIT = 40 * h.PATIENCE  # seconds for anything to happen; nothing takes nearly as long
# One line a rank when it begins; then it waits to be told how to end, by a file named after the attempt.
PROGRAM = """
echo "attempt $TORCHELASTIC_RESTART_COUNT rank $RANK on $(hostname) devices ${CUDA_VISIBLE_DEVICES-none}"
[ $TORCHELASTIC_RESTART_COUNT != $1 ] || exit 0
[ "$2" != fail ] || [ $RANK != 1 ] || exit 3
sleep 300
"""


def launch(bed, hosts, *options, last, how="wait"):
    """The Popen and the log of it: three ranks that all end with 0 in attempt `last`."""
    path = h.work() / f"hosts.{time.monotonic_ns()}"
    path.write_text(hosts)
    log = path.with_suffix(".log")
    with open(log, "wb") as out:
        return bed.start(h.DSRUN, "launch", "-H", path, "--grace", 1, *options, "--", "sh", "-c", PROGRAM, "sh", last, how, stdout=out,
                         stderr=subprocess.STDOUT), log


def where(log, attempt):
    """{rank: host} of an attempt, as the ranks said."""
    return dict(re.findall(rf"attempt {attempt} rank (\d+) on (\S+)", log.read_text()))


def until(true):
    end = time.monotonic() + LIMIT
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def lost(bed, via):
    """The host of rank 1 is cut off from its agent; the spare takes over, with devices of its own."""
    hosts = "".join(f"  - {{name: node{i}, slots: 1, devices: [{i}]}}\n" for i in (1, 2, 3, 4))
    job, log = launch(bed, "hosts:\n" + hosts, "--via", via, "--nodes", 3, "--restarts", 1, "--run-dir", f"lost-{via}",
                      last=1)
    until(lambda: len(where(log, 0)) == 3 or job.poll() is not None)
    agent = next((pid for pid, line in bed.processes("node2").items() if "dsrun-agent" in line), None)
    bed.on("node2", "kill", "-KILL", str(agent))
    code = job.wait(LIMIT)
    h.ok(code == 0 and where(log, 0) == {"0": "node1", "1": "node2", "2": "node3"}
         and where(log, 1) == {"0": "node1", "1": "node4", "2": "node3"},
         f"{via}: a spare takes the place of a host that was lost, rank for rank", f"{code}\n{log.read_text()}")
    h.ok("attempt 1 rank 1 on node4 devices 4" in log.read_text(), f"{via}: with the spare's own devices", log.read_text())
    said = [json.loads(line) for line in (h.work() / f"lost-{via}" / "events.jsonl").read_text().splitlines()]
    used = [event["hosts"] for event in said if event["event"] == "launch"]
    h.ok(used == [["node1", "node2", "node3"], ["node1", "node4", "node3"]], f"{via}: the record says so", used)


def failing(bed):
    """Ranks fail first on one host, twice: it may be the host."""
    job, log = launch(bed, "node1\nnode2\nnode3\n", "--nodes", 2, "--restarts", 2, last=2, how="fail")
    code = job.wait(LIMIT)
    h.ok(code == 0 and [where(log, attempt).get("1") for attempt in range(3)] == ["node2", "node2", "node3"],
         "a host on which ranks failed first twice is replaced", f"{code}\n{log.read_text()}")
    job, log = launch(bed, "node1\nnode2\n", "--restarts", 2, last=2, how="fail")
    code = job.wait(LIMIT)
    h.ok(code == 0 and where(log, 2).get("1") == "node2", "where there is no spare it is tried again", log.read_text())


def elsewhere():
    """A host that this way of starting cannot reach is no spare."""
    hosts = h.work() / "here.hosts"
    hosts.write_text("localhost slots=2\nnode1 slots=2\n")
    ran = h.dsrun("launch", "-H", hosts, "--nodes", 1, "--restarts", 2, "--run-dir", "here", "--", "sh", "-c", PROGRAM, "sh",
                  "2", "fail")
    said = [json.loads(line) for line in (h.work() / "here" / "events.jsonl").read_text().splitlines()]
    used = [event["hosts"] for event in said if event["event"] == "launch"]
    h.ok(ran.returncode == 0 and used == [["localhost"]] * 3, "a host of another machine is no spare of this one",
         f"{ran.returncode} {used} {ran.stderr}")


beds.require()
elsewhere()
with beds.Hosts(4) as real:
    lost(real, "ssh")
    lost(real, "openssh")
    failing(real)
    h.ok(until(lambda: not any(real.processes(host) for host in real.names)), "nothing is left on any host",
         {host: real.processes(host) for host in real.names})
h.done()
