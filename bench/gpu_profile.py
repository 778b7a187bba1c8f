# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gpu_profile.py - a step of training operation by operation, each against its own bound; bench/gpu.py calls it.

dsrun itself writes the profile (log.trace: kernels, docs/gpu.md).  Here its rows are put against what the same
GPU was seen to reach: the bytes of an operation at the rate of a copy, its FLOPs at that of the best matrix
product, whichever takes longer.  Groups of them stand beside the floor model of an H200, in nanoseconds a token.
"""
import json

from common import Failed

# What no step of these models does without on one H200: products at 790 TFLOP/s, memory at 4.3 TB/s with
# activations read and written once by fused kernels, attention at 300 and 250 TFLOP/s forward and backward
# (heads of 64, 1,024 tokens) and 420 and 340 (4,096 tokens), AdamW and norm 30 bytes a parameter and step.
FLOOR_NS = {
    "gpt2-124m": {"block products": 645, "head products": 293, "attention": 252, "memory-bound": 153, "update": 14},
    "llama-3.2-1b": {"block products": 7390, "head products": 1995, "attention": 2613, "memory-bound": 935, "update": 70},
}
GROUPS = ("block products", "head products", "attention", "memory-bound", "update")
UPDATES = {"adamw", "sumsq"}
ROWS = 14  # of the table; the JSON file has all


def read(folder):
    """What dsrun wrote of rank 0."""
    try:
        with open(folder + "/trace/kernels-00000.json", encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise Failed(f"no profile: {error.strerror}") from error


def group_of(row, vocab):
    name = row["name"]
    if "matmul" in name:
        extents = row["shape"].split(" ")[0].split("x")
        return "head products" if str(vocab) in extents else "block products"
    if name.startswith("attention"):
        return "attention"
    return "update" if name in UPDATES else "memory-bound"


class Rates:
    """The best that was seen of a copy and of a product, in bytes/s and FLOP/s."""

    def __init__(self, profiles, kernels):
        self.copy = max(p["copy_bytes_per_s"] for p in profiles)
        self.product = max((r["flops"] / r["ms"] * 1e3 for p in profiles for r in p["operations"]
                            if "matmul" in r["name"] and r["ms"] > 0), default=0.0)
        self.copy = max([self.copy] + [1e12 * k["tera"] for n, k in kernels.get("memory", {}).items() if n == "copy"])
        self.product = max([self.product] + [1e12 * k["best_tera"] for k in kernels.get("products", {}).values()])

    def bound_ms(self, row):
        flops = row["flops"] / self.product if self.product > 0 else 0.0
        return 1e3 * max(flops, row["bytes"] / self.copy if self.copy > 0 else 0.0)


def groups(profile, vocab, rates):
    """By group: measured and bound, in nanoseconds a token."""
    found = {name: [0.0, 0.0] for name in GROUPS}
    for row in profile["operations"]:
        if not row["beside"]:
            at = found[group_of(row, vocab)]
            at[0] += row["ms"] * 1e6 / profile["tokens"]
            at[1] += rates.bound_ms(row) * 1e6 / profile["tokens"]
    return found


def rate_text(row):
    if row["ms"] <= 0:
        return ""
    return f"{row['flops'] / row['ms'] / 1e9:.0f} TFLOP/s" if row["flops"] else f"{row['bytes'] / row['ms'] / 1e9:.2f} TB/s"


def rows_table(profile, rates):
    step, rows = profile["step_ms"], [r for r in profile["operations"] if not r["beside"]]
    lines = ["| operation | shape | calls | ms | of the step | rate | of its bound |", "|---|---|---|---|---|---|---|"]
    for row in rows[:ROWS]:
        share = f"{rates.bound_ms(row) / row['ms']:.2f}" if row["ms"] > 0 else ""
        lines.append(f"| {row['name']} | {row['shape']} | {row['calls']} | {row['ms']:.3f} | {100 * row['ms'] / step:.1f}% | "
                     f"{rate_text(row)} | {share} |")
    rest = sum(row["ms"] for row in rows[ROWS:])
    lines.append(f"| {len(rows[ROWS:])} more | | {sum(r['calls'] for r in rows[ROWS:])} | {rest:.3f} | {100 * rest / step:.1f}% | | |")
    return lines


def groups_table(name, profile, vocab, rates, tokens_per_s):
    """Where each nanosecond of a token goes; beside operations what nothing was computed in."""
    lines = ["| ns a token | floor of an H200 | bound here | measured |", "|---|---|---|---|"]
    measured = groups(profile, vocab, rates)
    for group, (took, bound) in measured.items():
        lines.append(f"| {group} | {FLOOR_NS[name][group]} | {bound:.0f} | {took:.0f} |")
    sums = [sum(v[i] for v in measured.values()) for i in (1, 0)]
    lines.append(f"| all operations | {sum(FLOOR_NS[name].values())} | {sums[0]:.0f} | {sums[1]:.0f} |")
    for what, ms in profile["left_ms"].items():
        lines.append(f"| idle: {what} | | | {ms * 1e6 / profile['tokens']:.0f} |")
    lines.append(f"| the profiled step, each operation launched by itself | | | {profile['step_ms'] * 1e6 / profile['tokens']:.0f} |")
    if tokens_per_s:
        lines.append(f"| a usual step, by CUDA graphs | | | {1e9 / tokens_per_s:.0f} |")
    return lines


def waits_text(profile):
    waits = [f"{w['call']} {w['count']} time{'s' if w['count'] != 1 else ''}{', in ' if w['during'] else ''}{w['during']}"
             for w in profile["waits"]]
    return "The host waited for the device in: " + ("; ".join(waits) if waits else "nothing") + "."


def table(name, profile, vocab, rates, tokens_per_s):
    return "\n".join([f"**{name}**, a step of {profile['step_ms']:.1f} ms on {profile['device']}. Bounds: "
                      f"{rates.product / 1e12:.0f} TFLOP/s, {rates.copy / 1e12:.2f} TB/s, the best seen in this run. "
                      f"{waits_text(profile)}", ""] + rows_table(profile, rates) + [""] +
                     groups_table(name, profile, vocab, rates, tokens_per_s))
