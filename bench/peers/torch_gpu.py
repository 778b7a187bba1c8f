#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""torch_gpu.py - the training step of bench/gpu.py's models in PyTorch on a GPU: the peer to beat.

    torch_gpu.py --tokens FILE [--warm K] [--steps K] [--device D] '{"arch": "gpt2", "layers": 12, ...}'

fp32 parameters under bf16 autocast, compiled, fused AdamW, clipping at 1.0, tied head;
scaled_dot_product_attention by cuDNN where that runs, else by PyTorch's own flash attention: of the
two the faster on Hopper, with gradients whose bits vary.  Prints one JSON line: milliseconds of each
measured step.
"""
import argparse
import array
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


class RootMean(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


def turn(x, cos, sin):
    one, other = x.chunk(2, -1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1).type_as(x)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.heads, self.kv, self.size = s["heads"], s["kv_heads"], s["hidden"] // s["heads"]
        self.llama = s["arch"] == "llama"
        width, norm, bias = s["hidden"], RootMean if self.llama else nn.LayerNorm, not self.llama
        self.norm_att, self.norm_mlp = norm(width), norm(width)
        self.qkv = nn.Linear(width, (self.heads + 2 * self.kv) * self.size, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.up = nn.Linear(width, s["ffn"] * (2 if self.llama else 1), bias=bias)
        self.down = nn.Linear(s["ffn"], width, bias=bias)

    def forward(self, x, cos, sin):
        batch, seq, width = x.shape
        split = self.qkv(self.norm_att(x)).view(batch, seq, -1, self.size).transpose(1, 2)
        q, k, v = split.split((self.heads, self.kv, self.kv), 1)
        if self.llama:
            q, k = turn(q, cos, sin), turn(k, cos, sin)
            k, v = (t.repeat_interleave(self.heads // self.kv, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, width))
        up = self.up(self.norm_mlp(x))
        if self.llama:
            gate, up = up.chunk(2, -1)
            return x + self.down(F.silu(gate) * up)
        return x + self.down(F.gelu(up, approximate="tanh"))


class Model(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.llama = s["arch"] == "llama"
        self.tokens = nn.Embedding(s["vocab"], s["hidden"])
        self.places = None if self.llama else nn.Embedding(s["context"], s["hidden"])
        self.layers = nn.ModuleList(Layer(s) for _ in range(s["layers"]))
        self.norm = RootMean(s["hidden"]) if self.llama else nn.LayerNorm(s["hidden"])
        size = s["hidden"] // s["heads"]
        angles = torch.outer(torch.arange(s["context"]), 10000.0 ** (-torch.arange(0, size, 2) / size))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids)
        if not self.llama:
            x = x + self.places.weight
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(F.linear(self.norm(x), self.tokens.weight).flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shape", type=json.loads)
    parser.add_argument("--tokens", required=True, help="ids, of 4 bytes where the name has .u32.")
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    s, device = args.shape, args.device
    torch.manual_seed(1)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    model = Model(s).to(device)
    step_model = torch.compile(model) if device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                  **({"fused": True} if device == "cuda" else {}))
    micros, times = s["batch"] // s["micro"], []
    each = s["micro"] * s["context"]
    tokens = array.array("I" if ".u32." in args.tokens else "H")
    with open(args.tokens, "rb") as file:
        tokens.frombytes(file.read())
    for step in range(args.warm + args.steps):
        batches = []
        for micro in range(micros):
            at = (step * micros + micro) * each
            rows = [tokens[at + i * s["context"]:at + (i + 1) * s["context"] + 1] for i in range(s["micro"])]
            batches.append(torch.tensor([list(row) for row in rows], device=device))
        began = time.perf_counter()
        for ids in batches:
            with torch.autocast(device, dtype=torch.bfloat16), sdpa_kernel(ATTENTION, set_priority=True):
                loss = step_model(ids[:, :-1], ids[:, 1:]) / micros
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = loss.item()  # waits for the device
        times.append((time.perf_counter() - began) * 1e3)
    if not math.isfinite(last):
        sys.exit("torch_gpu: the loss is not finite")
    print(json.dumps({"what": "step", "peer": "torch", "version": torch.__version__,
                      "step_ms": [round(t, 3) for t in times[args.warm:]]}), flush=True)


if __name__ == "__main__":
    main()
