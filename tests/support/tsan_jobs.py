#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""tsan_jobs - whole jobs of a ThreadSanitizer build, for `make check-tsan`: no program reports a race.

dsrun, its agent and two workers of two threads each: compute threads, the thread that talks to other ranks,
the one that writes checkpoints and the one that listens to the agent, all at once.
"""
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness as h  # noqa: E402

REPORTS = h.work() / "reports"
REPORTS.mkdir()
OPTIONS = f"halt_on_error=1:suppressions={h.ROOT}/tools/tsan.supp:log_path={REPORTS}/tsan"
SETTINGS = (["zero.stage=0"], ["zero.stage=2", "precision.compute=bf16"],
            ["zero.stage=3", "activation.recompute=full", "log.trace=step"], ["zero.stage=1", "log.comm=true"])


def clean(name):
    reports = [path for path in REPORTS.iterdir() if path.stat().st_size]
    h.ok(not reports, f"{name}: no race", "\n".join(path.read_text()[:3000] for path in reports))
    for path in reports:
        path.unlink()


def args(run, job, *keys):
    return ["--slots", 2, "--heartbeat", 60, "--run-dir", h.work() / run, job, "launch.threads=2",
            "zero.bucket_mb=1", "checkpoint.keep=2", *keys]


def main():
    job = h.write_job(steps=6, hidden=64, ffn=256, every=1, eval=3, micro=2)
    for number, keys in enumerate(SETTINGS):
        ran = h.dsrun(*args(f"run-{number}", job, *keys), TSAN_OPTIONS=OPTIONS, timeout=300)
        h.ok(ran.returncode == 0, f"{' '.join(keys)}: exit 0", f"{ran.returncode}\n{ran.stderr}")
        clean(" ".join(keys))
    long_job = h.write_job("long.yaml", steps=100000, every=3)
    running = h.start(*args("run-stopped", long_job), TSAN_OPTIONS=OPTIONS)
    end = time.monotonic() + 120
    saved = h.work() / "run-stopped" / "checkpoints"
    while time.monotonic() < end and not (saved.is_dir() and any(saved.iterdir())):
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    h.ok(running.wait(120) == 75, "a stop: exit 75", running.returncode)
    clean("a stop")


main()
h.done()
