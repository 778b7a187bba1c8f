#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""first_step.py - from exec of dsrun to the first step of the tiny model on 16 real hosts over ssh.

    first_step.py --build DIR [--hosts 16] [--rounds 5]

One rank a host.  Beside it, in turn: the same job's ranks on this machine alone, which costs no ssh;
`dsrun hosts trust`, which is the key exchange with every host and the check of its key, and nothing else, as
all are known; and `dsrun exec -- true`: login, shell and agent besides.  Hosts are those of tests/hosts (root), so
one machine's cores do the work of all of them.  A table on the terminal and bench/results/first_step.json.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile

import launch
from start import JOB, first_line_s


def write_job(folder, ranks):
    text = JOB.replace("global_batch: 2", f"global_batch: {ranks}").replace("[text.txt]", f"[{folder}/text.txt]")
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    (folder / "text.txt").write_text("to start is to be half done. " * 4000, encoding="utf-8")


def seconds(argv, folder):
    """dsrun makes its run directory below `folder`."""
    taken = first_line_s([str(word) for word in argv], str(folder))
    shutil.rmtree(folder / "run")
    return taken


def measure(dsrun, base, hosts, rounds):
    head, listed = base / "bin" / "head", base / "etc" / "hosts.list"
    alone = {"ssh handshake alone": ("hosts", "trust", "-H", listed),
             "dsrun exec -- true": ("exec", "-H", listed, "--", "true")}
    found = {what: [] for what in ("first step over ssh", "first step on this machine", *alone)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_job(folder, hosts)
        launch.bed(base, hosts, seen=(folder,))
        try:
            for _ in range(rounds):
                over = [head, dsrun, "-H", listed, "--slots", "1", "--via", "ssh", "--run-dir", folder / "run",
                        folder / "job.yaml"]
                found["first step over ssh"].append(seconds(over, folder))
                found["first step on this machine"].append(
                    seconds([dsrun, "--slots", hosts, "--run-dir", folder / "run", folder / "job.yaml"], folder))
                for what, words in alone.items():
                    wall, _, code, said = launch.timed(base, [dsrun, *words])
                    if code:
                        sys.exit(f"{what}: code {code}: {said}")
                    found[what].append(wall / 1000)
        finally:
            launch.down(base)
    return {what: round(statistics.median(samples), 3) for what, samples in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    dsrun = pathlib.Path(args.build).resolve() / "bin" / "dsrun"
    medians = measure(dsrun, pathlib.Path(f"/tmp/dsrun-bench.{os.getpid()}"), args.hosts, args.rounds)
    print(f"{args.hosts} hosts, medians of {args.rounds}")
    for what, s in medians.items():
        print(f"    {what:<28} {1000 * s:7.0f} ms")
    results = launch.HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "first_step.json").write_text(json.dumps({"hosts": args.hosts, "rounds": args.rounds, "seconds": medians},
                                                        indent=1) + "\n")


if __name__ == "__main__":
    main()
