#!/usr/bin/python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gloo_allreduce.py - time torch.distributed's all-reduce over gloo between processes of one host.

    ranks.py 2 gloo_allreduce.py MIB REPS

Prints one JSON line of the same form as bench/allreduce.c: rank 0's time from a barrier to the end
of the operation, after three unmeasured ones.
"""
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist

WARM = 3


def main():
    mib, reps = int(sys.argv[1]), int(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=os.environ["MEETING"], rank=rank, world_size=world)
    buf = torch.empty(mib << 18)
    times = []
    for _ in range(reps + WARM):
        buf.fill_(rank + 1)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(buf)
        times.append((time.perf_counter() - began) * 1e3)
        if buf.min().item() != world * (world + 1) / 2 or buf.max().item() != buf.min().item():
            sys.exit("gloo_allreduce: wrong sum")
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        median = statistics.median(times[WARM:])
        print(json.dumps({"what": "all_reduce", "peer": "gloo", "ranks": world, "bytes": mib << 20,
                          "reps": reps, "median_ms": round(median, 3),
                          "min_ms": round(min(times[WARM:]), 3),
                          "gb_s": round((mib << 20) / median / 1e6, 3),
                          "version": "torch " + torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
