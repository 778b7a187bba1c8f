#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""check - what must hold on a GPU, with the programs of a build that has the plug-in (make gpu-check).

Needs nothing but Python's standard library and the build folder.  Without a GPU it says so in one line
and ends with 1: a skipped check is no check.  Parts go on one after another whatever came of the one
before, each with a time limit; the last lines say what came of each.  With --doubles it rehearses itself on
the doubles of tests/fakes/ (make gpu-check-rehearsal): all of it, with smaller jobs, and no GPU.
The parts are in part_*.py beside this file, what they share in jobs.py.
"""
import argparse
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness as h  # noqa: E402  (found through the path above)
import machine  # noqa: E402  (beside this file, as those below)
from jobs import clock, log, setting  # noqa: E402
from part_device import graphs, memory, waits  # noqa: E402
from part_numbers import attention, fp8, generate, kernels, reference, sanitizer  # noqa: E402
from part_ranks import adapters, divided, evaluation, fetched, killed, offload, sharers, stopped, zero  # noqa: E402

# The time that each may take, in seconds, all others allowing; doubles are slow.
PARTS = ((kernels, 110), (reference, 80), (graphs, 25), (waits, 40), (memory, 50), (attention, 50), (generate, 30), (fp8, 60), (zero, 110),
         (sharers, 60), (divided, 30), (adapters, 30), (evaluation, 30), (offload, 60), (fetched, 30), (killed, 50), (stopped, 60), (sanitizer, 80))
DOUBLES_SLOWER = 6


def tell_machine():
    """Into the log, what may explain how a part ended."""
    for words in (["nvidia-smi", "-q"], ["uname", "-a"], ["ldd", "--version"], ["df", "-h", "/dev/shm", "/tmp"],
                  ["sh", "-c", "ulimit -a"], [str(h.BUILD / "bin" / "dsrun"), "--version"]):
        try:
            ran = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, timeout=20.0)
            log.whole(" ".join(words), ran.stdout + ran.stderr)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.whole(" ".join(words), str(error))


def read_libraries(folders):
    """Once, so that the first part does not pay for it: those of CUDA have hundreds of MiB each."""
    began, size = time.monotonic(), 0
    for folder in filter(None, folders.split(":")):
        for path in sorted(pathlib.Path(folder).glob("lib*.so*")):
            if any(word in path.name for word in ("cublasLt", "cudnn", "nccl")) and time.monotonic() - began < 20.0:
                with open(path, "rb") as file:
                    while piece := file.read(1 << 24):
                        size += len(piece)
    print(f"# {size / 2**20:.0f} MiB of libraries read in {time.monotonic() - began:.1f} s")


def do_part(part, seconds):
    """Run one, whatever comes; a line of what came of it."""
    before, began = h.counts(), time.monotonic()
    clock.begin(seconds)
    try:
        part()
    except Exception:  # the other parts are still to be run
        h.ok(False, f"{part.__name__}: goes through", traceback.format_exc())
    h.reap()
    good, bad, skipped = (now - then for now, then in zip(h.counts(), before))
    return f"{part.__name__:<10} {good:>3} ok, {bad} failed, {skipped} skipped, {time.monotonic() - began:.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", help="those to run; all of " + " ".join(p.__name__ for p, _ in PARTS))
    parser.add_argument("--seconds", type=float, default=520.0, help="all of it ends in this time")
    parser.add_argument("--out", type=pathlib.Path, help="the folder of the log; bench/results")
    parser.add_argument("--doubles", action="store_true", help="a rehearsal without a GPU")
    args = parser.parse_args()
    setting.choose(args.doubles)
    end = time.monotonic() + args.seconds
    if args.doubles:
        os.environ.update(LD_LIBRARY_PATH=str(setting.libexec), FAKE_CUDA_MEMORY=str(16 << 30))
    missing = machine.why_no_gpu()
    if missing:
        sys.exit(f"gpu-check: {missing}, nothing was checked")
    if not setting.plugin.exists():
        sys.exit(f"gpu-check: there is no '{setting.plugin}', build it with make CUDA_HOME=..., nothing was checked")
    facts = machine.Gpu().facts()
    word = re.sub(r"[^a-z0-9]+", "-", facts["name"].lower()).strip("-")
    out = args.out or (h.BUILD if args.doubles else h.ROOT / "bench" / "results")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{datetime.date.today().isoformat()}-{word}-check.log"
    log.open(path)
    sys.stdout = log
    print(f"# {facts}, {datetime.datetime.now().isoformat(timespec='seconds')}, build {h.BUILD}")
    if not args.doubles:
        folders, where = machine.library_path(h.BUILD)
        if folders:
            os.environ["LD_LIBRARY_PATH"] = folders
        for line in where:
            print(f"# {line}")
        tell_machine()
        if any(line.startswith("libcublasLt") and line.endswith("not found") for line in where):
            sys.exit("gpu-check: there is no cuBLASLt, name its folder in LD_LIBRARY_PATH, nothing was checked")
        read_libraries(folders)
    summary = []
    for part, most in PARTS:
        if args.parts and part.__name__ not in args.parts:
            continue
        left = end - time.monotonic()
        if left < 5.0:
            h.ok(False, f"{part.__name__}: there is time for it")
            summary.append(f"{part.__name__:<10} not run, no time was left")
        else:
            summary.append(do_part(part, min(most * (DOUBLES_SLOWER if args.doubles else 1), left)))
            print(f"# {summary[-1]}", flush=True)
    print("#\n" + "".join(f"# {line}\n" for line in summary) + f"# all of it: {path}", flush=True)
    h.done()


main()
