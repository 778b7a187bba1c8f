#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch_attention.py - causal attention in bf16 by each of PyTorch's backends: the peers of our own.

    torch_attention.py '[["attention d64 1k", 64, 1024, 12, 12, 64], ...]'

A shape is name, batch, sequence, heads, key/value heads, head size.  Prints a JSON line per shape and
backend that runs it: microseconds forward and backward, medians.  Grouped heads are repeated first, as
all backends take that, and outside the clock.
"""
import json
import statistics
import sys

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SAMPLES, ROUNDS = 7, 10


def microseconds(work):
    work()
    times = []
    for _ in range(SAMPLES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(ROUNDS):
            work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / ROUNDS)
    return statistics.median(times)


def measure(name, batch, seq, heads, kv_heads, size):
    q, k, v = (torch.randn(batch, n, seq, size, device="cuda", dtype=torch.bfloat16)
               for n in (heads, kv_heads, kv_heads))
    k, v = (x.repeat_interleave(heads // kv_heads, 1).requires_grad_() for x in (k, v))
    q.requires_grad_()
    grad = torch.randn_like(q)
    for backend in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
        try:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                forward = microseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                backward = microseconds(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
        except (AttributeError, RuntimeError) as error:
            print(f"torch_attention: {backend}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        print(json.dumps({"what": name, "backend": backend.lower(), "us": forward, "backward_us": backward}),
              flush=True)


for shape in json.loads(sys.argv[1]):
    measure(*shape)
