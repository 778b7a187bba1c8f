# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""adamw.py - the optimizer's pass over memory against STREAM's triad, a copy loop and its peers."""
import os

from common import Failed, cores, goal, pinned, run_json, torch_env, torch_version

PEER = os.path.join(os.path.dirname(__file__), "peers", "torch_adamw.py")


def peers(millions, reps, threads):
    """What PyTorch and DeepSpeed reach, or None where there is no PyTorch."""
    if torch_version() is None:
        return None
    try:
        return run_json(["/usr/bin/python3", PEER, millions, reps, str(threads)],
                        env=torch_env(threads))
    except Failed:
        return None


def measure(context):
    millions, reps = ("8", "5") if context.quick else ("32", "9")
    rows, goals = [], []
    for threads in sorted({1, len(cores())}):
        with pinned(threads):
            row = run_json([context.build + "/bench/adamw", millions, reps, str(threads)])
            row["peers"] = peers(millions, reps, threads)
        rows.append(row)
        context.say(f"    {threads} thread{'s' if threads > 1 else ' '}  AdamW fp32 gradient "
                    f"{row['adamw_gb_s']:6.2f} GB/s, bf16 {row['adamw_bf16_gb_s']:6.2f}   triad "
                    f"{row['triad_gb_s']:6.2f}   copy {row['copy_gb_s']:6.2f}   peers "
                    f"{row['peers']}")
        best = max((row["peers"] or {}).get(name) or 0 for name in
                   ("loop", "foreach", "fused", "deepspeed")) or None
        goals += [
            goal(f"AdamW with a bf16 gradient against STREAM's triad, {threads} threads",
                 row["adamw_bf16_gb_s"], row["triad_gb_s"], "GB/s", 0.85),
            goal(f"AdamW with an fp32 gradient against the fastest peer, {threads} threads",
                 row["adamw_gb_s"], best, "GB/s", 1.0, above=True)]
    goals.append(goal("AdamW's bytes per second against a plain copy loop", rows[0]["adamw_gb_s"],
                      rows[0]["copy_gb_s"], "GB/s", 0.9))
    return rows, goals
