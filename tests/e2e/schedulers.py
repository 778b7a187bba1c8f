#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""schedulers - the hosts of a job of PBS, LSF, Grid Engine and Cobalt, from their variables and files.

Two real hosts; the variables and files are written as these schedulers write them.
"""
import json

import beds
import harness as h

SAY = ["--", "sh", "-c", "echo $(hostname) $RANK $LOCAL_RANK"]
THREE = ["node1 0 0", "node1 1 1", "node2 2 0"]
CASES = (  # variable, what its file holds, or its value where it is no path, and the ranks of it
    ("PBS_NODEFILE", "node1\nnode1\nnode2\n", THREE),
    ("LSB_DJOB_HOSTFILE", "node1\nnode1\nnode2\n", THREE),
    ("LSB_MCPU_HOSTS", "=node1 2 node2 1", THREE),
    ("PE_HOSTFILE", "node1 1 all.q@node1 UNDEFINED\nnode2 1 all.q@node2 UNDEFINED\nnode1 1 short.q@node1 UNDEFINED\n",
     THREE),
    ("COBALT_NODEFILE", "node2\nnode1\n", ["node1 1 0", "node2 0 0"]),
)


def job(variable, text):
    """The environment of such a job."""
    if text.startswith("="):
        return {variable: text[1:]}
    path = h.work() / variable.lower()
    path.write_text(text)
    return {variable: str(path)}


def said(ran):
    return sorted(line.split("] ", 1)[-1] for line in ran.stdout.splitlines())


def starts(bed):
    for variable, text, want in CASES:
        env = job(variable, text)
        ran = bed.run(h.DSRUN, "launch", *SAY, **env)
        h.ok(ran.returncode == 0 and said(ran) == want, f"{variable}: ranks on its hosts", ran.stdout + ran.stderr)
        ran = bed.run(h.DSRUN, "launch", "--dry-run", "--json", *SAY, **env)
        dry = json.loads(ran.stdout) if ran.returncode == 0 else {}
        h.ok(dry.get("hosts_from") == variable and len(dry["placement"]) == len(want), f"{variable}: --dry-run --json says so",
             ran.stdout + ran.stderr)
    env = job("PBS_NODEFILE", CASES[0][1])
    for words in (["launch", "--dry-run", *SAY], ["exec", "--dry-run", "--", "true"], ["hosts", "--dry-run"]):
        ran = bed.run(h.DSRUN, *words, **env)
        h.ok("hosts from PBS_NODEFILE\n" in ran.stdout and "node2" in ran.stdout, f"{words[0]} --dry-run says so", ran.stdout)
    ran = bed.run(h.DSRUN, "exec", "--json", "--", "hostname", **env)
    h.ok(ran.returncode == 0 and ran.stdout.count('"host"') == 2, "exec runs once on each", ran.stdout + ran.stderr)
    train(bed, env)


def train(bed, env):
    """A job file, and who decides how many ranks there are."""
    path, run = h.write_job(steps=2, batch=6), h.work() / "run"
    ran = bed.run(h.DSRUN, "--run-dir", run, path, **env)
    h.ok(ran.returncode == 0 and "3 x 1 thread" in ran.stdout, "a job has the ranks of PBS", ran.stdout + ran.stderr)
    for title, words, more, ranks in (
            ("--slots wins", ["--slots", "3"], env, 6),
            ("launch.slots does not", [path, "launch.slots=3"], env, 3),
            ("one slot on each host says nothing", [path, "launch.slots=3"], job("COBALT_NODEFILE", "node1\nnode2\n"), 6),
            ("--include", ["-i", "node1:1"], env, 1), ("--nodes", ["--nodes", "1"], env, 2)):
        ran = bed.run(h.DSRUN, "plan", "--json", *words, *([] if path in words else [path]), **more)
        got = len(json.loads(ran.stdout)["placement"]) if ran.returncode == 0 else ran.stderr
        h.ok(got == ranks, f"{title}: {ranks} ranks", got)


def goes_round(bed):
    env = job("PBS_NODEFILE", CASES[0][1])
    own = h.work() / "own"
    own.write_text("node2\n")
    ran = bed.run(h.DSRUN, "launch", "-H", own, *SAY, **env)
    h.ok(said(ran) == ["node2 0 0"], "a hostfile goes before", ran.stdout + ran.stderr)
    ran = bed.run(h.DSRUN, "launch", "--via", "local", "--", "sh", "-c", "echo $RANK $WORLD_SIZE", **env)
    h.ok(said(ran) == ["0 1"], "--via local is this machine", ran.stdout + ran.stderr)
    ran = bed.run(h.DSRUN, "launch", *SAY, **{**env, **job("LSB_MCPU_HOSTS", "=node9 4")})
    h.ok(said(ran) == THREE, "of two the first counts", ran.stdout + ran.stderr)


def fails(bed):
    around = "which '--via local' goes round"
    for title, env, code, words in (
            ("a file that is gone", {"PBS_NODEFILE": "/nowhere/1.server"}, 2, "PBS_NODEFILE: cannot open '/nowhere/1.server'"),
            ("a bad line", job("PBS_NODEFILE", "node1\nnode1:4\n"), 65, "PBS_NODEFILE: line 2: "),
            ("no slots", job("PE_HOSTFILE", "node1\n"), 65, "PE_HOSTFILE: line 1: no number of slots after 'node1'"),
            ("a folder", {"COBALT_NODEFILE": "/"}, 65, "COBALT_NODEFILE: '/' is not a regular file"),
            ("a host too many", job("LSB_MCPU_HOSTS", "=node1 2000"), 65, "more than 1024 slots on host 'node1'")):
        ran = bed.run(h.DSRUN, "launch", *SAY, **env)
        h.ok(ran.returncode == code and words in ran.stderr and around in ran.stderr, f"{title}: {code}, '{words}'",
             f"{ran.returncode} {ran.stdout}{ran.stderr}")


beds.require()
with beds.Hosts(2) as real:
    starts(real)
    goes_round(real)
    fails(real)
h.done()
