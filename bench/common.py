# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""common.py - what the benches share: running a program, pinning it, medians, goals.

A *sample* is one number from one run.  Things that are compared are run in turn (ours, peer, ours,
peer, ...), and the ratio that counts is the median of the ratios within each turn, so that a slow
minute of the machine hits both sides of a ratio.
"""
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"  # where Debian's PyTorch is
OPENBLAS_OPENMP = "/usr/lib/x86_64-linux-gnu/openblas-openmp"


class Failed(Exception):
    """A program under measurement did not do its work; `output`: what it said until then, `errors` what else."""

    def __init__(self, text, output="", errors=""):
        super().__init__(text)
        self.output, self.errors = output, errors


def as_text(said):
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""


def run(argv, env=None, limit_s=300):
    """Standard output of a program that ends with 0 within limit_s."""
    try:
        done = subprocess.run(argv, env={**os.environ, **(env or {})}, timeout=limit_s, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"'{os.path.basename(argv[0])}' took more than {limit_s:.0f} s", as_text(late.stdout),
                     as_text(late.stderr)) from late
    except OSError as error:
        raise Failed(f"'{argv[0]}': {error.strerror}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Failed(f"'{os.path.basename(argv[0])}' ended with {done.returncode}: {last}", done.stdout,
                     done.stderr)
    return done.stdout


def run_json(argv, env=None, limit_s=300):
    """The last JSON line that a program prints."""
    for line in reversed(run(argv, env, limit_s).splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise Failed(f"'{os.path.basename(argv[0])}' printed no result")


def cores():
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def pinned(count):
    """What is started inside runs on the first `count` cores that are ours."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def torch_env(threads):
    env = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    if os.path.isdir(OPENBLAS_OPENMP):  # the other builds of OpenBLAS ignore set_num_threads(1)
        env["LD_LIBRARY_PATH"] = OPENBLAS_OPENMP
    return env


def torch_version():
    """None where PyTorch is not installed."""
    try:
        return run([PYTHON, "-c", "import torch; print(torch.__version__)"]).strip()
    except Failed:
        return None


def paired(one, other):
    """Median of the ratios one/other within each turn."""
    return statistics.median(a / b for a, b in zip(one, other))


def goal(text, ours, against, unit, need, ratio=None, above=False):
    """One line of the verdict: `ours` has to be `need` times `against` (more if `above`)."""
    if ours is None or against is None:
        return {"goal": text, "ours": ours, "against": against, "unit": unit, "need": need,
                "ratio": None, "met": None}
    ratio = ours / against if ratio is None else ratio
    return {"goal": text, "ours": ours, "against": against, "unit": unit, "need": need,
            "ratio": round(ratio, 4), "met": ratio > need if above else ratio >= need}


def limit(text, ours, most, unit):
    """One line of the verdict: `ours` has to stay below `most`."""
    return {"goal": text, "ours": ours, "against": most, "unit": unit, "need": 1.0,
            "ratio": None if ours is None else round(most / ours, 4),
            "met": None if ours is None else ours < most}


def first_match(path, pattern, default):
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(pattern, file.read(), re.M)
        return found.group(1) if found else default
    except OSError:
        return default


def busy_share(seconds=0.5):
    """Share of all cores' time that other programs use now."""
    def ticks():
        with open("/proc/stat", encoding="utf-8") as file:
            fields = [int(x) for x in file.readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]
    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return round(1 - (idle_after - idle_before) / max(all_after - all_before, 1), 3)


def machine():
    flags = first_match("/proc/cpuinfo", r"^flags\s*: (.*)$", "").split()
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    memory_kib = int(first_match("/proc/meminfo", r"^MemTotal:\s+(\d+)", "0"))
    return {"cpu": first_match("/proc/cpuinfo", r"^model name\s*: (.*)$", platform.machine()),
            "cores": len(cores()), "instructions": wide, "memory_gib": round(memory_kib / 2**20),
            "kernel": platform.release(), "torch": torch_version(), "busy_at_start": busy_share()}
