#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""ddp - examples/ddp/train.py, a PyTorch script as written for torchrun, under dsrun launch.

On this machine, and over ssh on four real hosts.  PyTorch is only asked here: where no interpreter has it,
the two points are skipped by name.
"""
import re
import subprocess

import beds
import harness as h

SCRIPT = h.ROOT / "examples" / "ddp" / "train.py"


def python_with_torch():
    for python in ("python3", "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", "import torch.distributed as d; assert d.is_gloo_available() if "
                               "hasattr(d, 'is_gloo_available') else d.is_available()"], capture_output=True, timeout=120,
                              check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


def trains(name, ran, world):
    losses = [float(x) for x in re.findall(r" step \d+ loss ([0-9.]+)$", ran.stdout, re.M)]
    equal = set(re.findall(r" rank (\d+) of \d+ weights equal$", ran.stdout, re.M))
    h.ok(ran.returncode == 0 and len(losses) == 6 and losses[-1] < losses[0] / 100 and
         equal == {str(i) for i in range(world)}, name, f"{ran.returncode}\n{ran.stdout}{ran.stderr}")


def main():
    python = python_with_torch()
    if python is None:
        for name in ("two ranks here", "four hosts over ssh"):
            h.skip(f"DDP on {name}", "no Python with PyTorch")
        h.done()
    trains("DDP on two ranks here", h.dsrun("launch", "--slots", 2, "--", python, SCRIPT, timeout=300,
                                            OMP_NUM_THREADS="1"), 2)
    beds.require()
    with beds.Hosts(4) as bed:
        ran = bed.run(h.DSRUN, "launch", "-H", bed.hostfile, "--via", "ssh", "--slots", 1, "--env", "OMP_NUM_THREADS=1",
                      "--", python, SCRIPT)
        trains("DDP on four hosts over ssh", ran, 4)
    h.done()


main()
