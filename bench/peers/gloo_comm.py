#!/usr/bin/python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gloo_comm.py - time torch.distributed's collectives over gloo between processes of one host.

    ranks.py 2 gloo_comm.py BYTES REPS

Prints one JSON line: rank 0's time from a barrier to the end of each operation, the median of REPS
after three unmeasured ones.  An operation that this gloo does not have is left out.
"""
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist

WARM = 3


def median(reps, fill, call, check):
    times = []
    for _ in range(reps + WARM):
        fill()
        dist.barrier()
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
        if not check():
            sys.exit("gloo_comm: wrong result")
    return round(statistics.median(times[WARM:]), 3)


def main():
    count, reps = int(sys.argv[1]) // 4, int(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=os.environ["MEETING"], rank=rank, world_size=world)
    whole, shard = torch.empty(count), torch.empty(count // world)
    places = list(whole.chunk(world))
    total = world * (world + 1) // 2

    def fill():
        whole.fill_(rank + 1)
        shard.fill_(rank + 1)

    def holds(tensor, value):
        return tensor.min().item() == tensor.max().item() == value

    cases = {
        "all_reduce": (lambda: dist.all_reduce(whole), lambda: holds(whole, total)),
        "reduce_scatter": (lambda: dist.reduce_scatter(shard, places), lambda: holds(shard, total)),
        "all_gather": (lambda: dist.all_gather(places, shard),
                       lambda: all(holds(place, r + 1) for r, place in enumerate(places))),
    }
    found = {}
    for name, (call, check) in cases.items():
        try:
            found[name] = median(reps, fill, call, check)
        except RuntimeError as error:
            if "not support" not in str(error):
                raise
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps({"ranks": world, "bytes": 4 * count, "median_ms": found,
                          "version": "torch " + torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
