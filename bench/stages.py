# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""stages.py - what a ZeRO stage costs: the step of shape C on two ranks of one thread, in turn.

Stage 0 is the other side of every ratio.  A ratio is of times, so less is better and the goal is a
most: 1.05 for stages 1 and 2, 1.15 for stage 3, which on one host has the program of stage 2; so it
is run as hosts with a rank each and devices have it, too: gathering for each use, with a copy.
"""
import statistics

import step
from common import Failed, cores, goal, paired

CONFIG = "C"
ROUNDS, STEPS = 5, 3
LAYOUTS = {"0": ["zero.stage=0"], "1": ["zero.stage=1"], "2": ["zero.stage=2"], "3": ["zero.stage=3"],
           "3, copied": ["zero.stage=3", "zero.once_per_host=false"]}
MOST = {"1": 1.05, "2": 1.05, "3": 1.15, "3, copied": 1.15}


def measure(context):
    if len(cores()) < 2:
        return [], [goal(f"stage {s} against 0", None, None, "ms", MOST[s]) for s in MOST]
    ms = {stage: [] for stage in LAYOUTS}
    shape = step.SHAPES[CONFIG][0]
    for _ in range(1 if context.quick else ROUNDS):
        for stage, samples in ms.items():
            try:
                speed = step.dsrun(context.build, CONFIG, 2, 1, "fp32", LAYOUTS[stage], STEPS)
            except Failed as failure:
                context.say(f"    stage {stage} failed: {failure}")
                context.failed = True
                return [], []
            samples.append(shape[3] * shape[5] / speed * 1e3)
    rows = [{"config": CONFIG, "name": f"stage {stage}", "step_ms": round(statistics.median(s), 1),
             "samples": [round(x, 1) for x in s]} for stage, s in ms.items()]
    for row in rows:
        context.say(f"    {row['name']}  {row['step_ms']:10.1f} ms")
    # Speeds, so that more is better as in every other goal: 1 / 1.05 of stage 0's is enough.
    goals = []
    for stage, most in MOST.items():
        ratio = paired(ms["0"], ms[stage])
        goals.append(goal(f"{CONFIG}: step of stage {stage}, at most {most} of stage 0's",
                          round(1e3 / statistics.median(ms[stage]), 4),
                          round(1e3 / statistics.median(ms["0"]), 4), "steps/s", round(1 / most, 3),
                          ratio=ratio))
    return rows, goals
