# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch_adamw.py MPARAMS REPS THREADS - AdamW of PyTorch, and of DeepSpeed where it is installed.

One JSON line: seconds a step as a rate over 28 bytes a parameter, the traffic of one fused pass,
whatever each of them moves in truth.  fp32 parameters, gradients and states; median of REPS after
one step that is not measured.
"""
import json
import statistics
import sys
import time

import torch


def rate(optimizer, count, reps):
    taken = []
    for _ in range(reps + 1):
        began = time.perf_counter()
        optimizer.step()
        taken.append(time.perf_counter() - began)
    return round(count * 28 / statistics.median(taken[1:]) / 1e9, 2)


def parameters(count):
    rows = max(1, count // (768 * 3072))
    made = [torch.nn.Parameter(torch.randn(768, 3072)) for _ in range(rows)]
    for one in made:
        one.grad = torch.randn_like(one)
    return made, rows * 768 * 3072


def deepspeed_adam(made):
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        return DeepSpeedCPUAdam(made, lr=1e-4, adamw_mode=True)
    except Exception:  # not installed, or its extension cannot be built here
        return None


def main():
    millions, reps, threads = (int(word) for word in sys.argv[1:4])
    torch.set_num_threads(threads)
    made, count = parameters(millions << 20)
    line = {"version": torch.__version__}
    for name, options in (("loop", {"foreach": False}), ("foreach", {"foreach": True}),
                          ("fused", {"fused": True})):
        try:
            line[name] = rate(torch.optim.AdamW(made, lr=1e-4, **options), count, reps)
        except (TypeError, RuntimeError):  # this version has no such thing on CPUs
            line[name] = None
    peer = deepspeed_adam(made)
    line["deepspeed"] = None if peer is None else rate(peer, count, reps)
    print(json.dumps(line))


main()
