# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""A PyTorch DistributedDataParallel script as it is written for torchrun: a small regression on the CPU.

    torchrun --nproc-per-node 2 train.py
    dsrun launch --slots 2 -- python3 train.py
    dsrun launch --hostfile hosts -- python3 train.py
"""
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH, INPUTS = 60, 16, 8


def main():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    truth = torch.randn(INPUTS, 1)
    model = DistributedDataParallel(torch.nn.Linear(INPUTS, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples = torch.Generator().manual_seed(100 + rank)  # each rank has samples of its own
    for step in range(STEPS):
        inputs = torch.randn(BATCH, INPUTS, generator=samples)
        loss = torch.nn.functional.mse_loss(model(inputs), inputs @ truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if rank == 0 and step % 10 == 9:
            print(f"step {step + 1} loss {mean.item() / world:.6f}", flush=True)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    everyone = [torch.empty_like(weights) for _ in range(world)]
    dist.all_gather(everyone, weights)
    same = all(torch.equal(weights, other) for other in everyone)
    print(f"rank {rank} of {world} weights {'equal' if same else 'differ'}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
