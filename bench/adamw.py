# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""adamw.py - the optimizer's pass over memory against a plain copy loop, on one core."""
from common import goal, pinned, run_json


def measure(context):
    with pinned(1):
        row = run_json([context.build + "/bench/adamw", *(("8", "5") if context.quick else
                                                          ("32", "9"))])
    context.say(f"    AdamW {row['adamw_gb_s']:6.2f} GB/s   copy {row['copy_gb_s']:6.2f} GB/s")
    return [row], [goal("AdamW's bytes per second against a plain copy loop", row["adamw_gb_s"],
                        row["copy_gb_s"], "GB/s", 0.9)]
