#!/usr/bin/python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch_gpt.py - the training step of bench/step.py's models in PyTorch: the peer to beat.

    torch_gpt.py --shape L,D,H,T,V,B --threads N --warm K --steps K [--bf16]

A pre-norm GPT-2 with learned positions, tied head, fp32, AdamW and clipping at 1.0, written the
way PyTorch users write it; scaled_dot_product_attention where this PyTorch has it, else the dense
form.  Started by ranks.py it runs under DistributedDataParallel over gloo, and the batch is divided
among the ranks.  Prints one JSON line: milliseconds of each measured step on rank 0 and the
seconds from start to the end of the first.
"""
import time

STARTED = time.time()

import argparse
import json
import math
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

FUSED = hasattr(F, "scaled_dot_product_attention")


def attend(q, k, v, future):
    if FUSED:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = torch.matmul(q, k.transpose(2, 3)).mul_(1 / math.sqrt(q.shape[3]))
    return torch.matmul(scores.masked_fill(future, float("-inf")).softmax(dim=3), v)


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_att, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, future):
        batch, seq, width = x.shape
        split = self.qkv(self.norm_att(x)).view(batch, seq, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v, future).transpose(1, 2).reshape(batch, seq, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, layers, width, heads, seq, vocab):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(seq, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        self.order = torch.arange(seq)
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.places(self.order)
        for layer in self.layers:
            x = layer(x, self.future)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def one_step(model, optimizer, ids, bf16):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(ids[:, :-1], ids[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def train(args, rank, world):
    layers, width, heads, seq, vocab, batch = args.shape
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = Model(layers, width, heads, seq, vocab)
    if world > 1:
        dist.init_process_group("gloo", init_method=os.environ["MEETING"], rank=rank,
                                world_size=world)
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    dice = torch.Generator().manual_seed(100 + rank)
    began_at = float(os.environ.get("BEGAN", STARTED))
    times, first = [], None
    for _ in range(args.warm + args.steps):
        ids = torch.randint(0, vocab, (batch // world, seq + 1), generator=dice)
        began = time.perf_counter()
        loss = one_step(model, optimizer, ids, args.bf16)
        times.append((time.perf_counter() - began) * 1e3)
        first = first or time.time() - began_at
    if not math.isfinite(loss):
        sys.exit("torch_gpt: the loss is not finite")
    if rank == 0:
        print(json.dumps({"what": "step", "peer": "torch", "version": torch.__version__,
                          "step_ms": [round(t, 3) for t in times[args.warm:]],
                          "first_step_s": round(first, 3)}), flush=True)
    if world > 1:
        dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", required=True, type=lambda s: [int(x) for x in s.split(",")])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    train(parser.parse_args(), int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


if __name__ == "__main__":
    main()
