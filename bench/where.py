#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""where.py - where the time of a training step goes.

    where.py --build DIR [--config A|B|C] [--compute fp32|bf16] [--source [--steps N]]

One thread.  Operation by operation and each against its own bound, as dsrun writes it (log.trace: kernels);
with --source by source file, which needs perf: what softmax or exponentials take inside an operation shows there.
Of perf's samples those of what happens once (the first touch of memory, the first weights) are shown apart and
left out of the shares; they are processor time, so other programs on the machine change little.
"""
import argparse
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from common import Failed, run
from step import SHAPES, write_job

KINDS = {
    "panel.c": "matrix products", "matmul.c": "matrix products", "gemm.c": "matrix products",
    "attention.c": "attention", "norm.c": "norms", "pointwise.c": "activations, residuals, bias",
    "loss.c": "classifier, softmax and loss", "embed.c": "embeddings",
    "optim.c": "AdamW, gradient norm", "tree.c": "all-reduce",
    "rng.c": "once: first weights",
}


def kind_of(library, source):
    if "JIT" in library or "libdnnl" in library:
        return "matrix products"
    if "kernel" in library:
        return "once: first touch of memory, kernel"
    return KINDS.get(source, "other, inlined helpers")


def operations(build, config, compute):
    """The table of the third step."""
    with tempfile.TemporaryDirectory() as folder:
        write_job(folder, SHAPES[config][0], 4, 1, 1, compute)
        run([os.path.abspath(build) + "/bin/dsrun", "--slots", "1", "--run-dir", folder + "/run",
             folder + "/job.yaml", f"data.train={folder}/tokens.bin", "log.trace=kernels"], limit_s=600)
        with open(folder + "/run/trace/kernels-00000.txt", encoding="utf-8") as file:
            return file.read()


def sources(build, config, steps, compute):
    """kind -> share of all samples."""
    with tempfile.TemporaryDirectory() as folder:
        write_job(folder, SHAPES[config][0], steps, 1, 1, compute)
        data = folder + "/perf.data"
        run(["perf", "record", "-q", "-F", "200", "-e", "cpu-clock", "-o", data,
             os.path.abspath(build) + "/bin/dsrun", "--slots", "1", "--run-dir", folder + "/run",
             folder + "/job.yaml", f"data.train={folder}/tokens.bin"], limit_s=600)
        text = run(["perf", "report", "-i", data, "--comm", "dsrun-worker", "--sort", "dso,srcfile",
                    "--stdio", "-t", "|"])
    shares = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[0].endswith("%"):
            kind = kind_of(fields[1], fields[2])
            shares[kind] = shares.get(kind, 0.0) + float(fields[0].rstrip("%"))
    if not shares:
        raise Failed("perf saw no worker")
    return shares


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--config", choices=sorted(SHAPES), default="A")
    parser.add_argument("--steps", type=int, help="with --source; default 30, 6, 4 for A, B, C")
    parser.add_argument("--source", action="store_true", help="by source file, with perf")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    steps = args.steps or {"A": 30, "B": 6, "C": 4}[args.config]
    try:
        if not args.source:
            print(operations(args.build, args.config, args.compute), end="")
            return 0
        shares = sources(args.build, args.config, steps, args.compute)
    except Failed as failure:
        print(f"where: {failure}", file=sys.stderr)
        return 1
    once = {kind: share for kind, share in shares.items() if kind.startswith("once")}
    whole = sum(shares.values()) - sum(once.values())
    print(f"shape {args.config}, {args.compute}, {steps} steps, one thread")
    for kind, share in sorted(shares.items(), key=lambda item: (item[0] in once, -item[1])):
        print(f"  {100 * share / whole if kind not in once else share:5.1f}%  {kind}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
