# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""comm.py - 64 MiB of fp32 between 2 ranks, in place: `dsrun bench comm`, gloo and MPI in turn.

Three operations, in shared memory and over TCP on loopback.  Gloo speaks TCP only, so it stands on
both sides; MPI is run as it comes, and again with TCP as its only way.  A row `once` is the
all-gather of a buffer that the ranks of a host hold once, as dsrun keeps the parameters of stages 1
to 3 there: nothing is copied.  The others have no such thing; they gather as ever.
"""
import json
import os
import statistics

from common import HERE, PYTHON, Failed, goal, paired, run, run_json, torch_env, torch_version

BYTES, REPS = 64 << 20, 9
OPS = {"all_reduce": "all_reduce_f32", "reduce_scatter": "reduce_scatter", "all_gather": "all_gather"}
NEED = {"memory": 5.0, "once": 5.0, "tcp": 1.3}  # times the faster of gloo and MPI
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
MPI_TCP = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]


def ours(build):
    """(over, op) -> milliseconds and the share of this machine's memory copy."""
    result = json.loads(run([build + "/bin/dsrun", "bench", "comm", "2", "--json"]))
    return {(case["over"], op): (case["median_ms"], case["of_copy"])
            for case in result["cases"] for op, name in OPS.items()
            if case["op"] == name and case["bytes"] == BYTES}


def peers(build):
    """name -> (argv, environment, ways it stands for); what is not installed is not there."""
    found = {}
    if torch_version():
        found["gloo"] = ([PYTHON, HERE + "/peers/ranks.py", "2", HERE + "/peers/gloo_comm.py",
                          str(BYTES), str(REPS)], torch_env(1), ("memory", "once", "tcp"))
    program = build + "/bench/mpi_comm"
    if os.path.exists(program):
        words = [program, str(BYTES), str(REPS)]
        found["mpi"] = (MPIRUN + words, {}, ("memory", "once"))
        found["mpi tcp"] = (MPIRUN + MPI_TCP + words, {}, ("tcp",))
    return found


def ops_of(way):
    return ("all_gather",) if way == "once" else OPS


def one_round(context, samples, versions):
    for key, (ms, share) in ours(context.build).items():
        samples.setdefault(("dsrun", *key), []).append(ms)
        samples.setdefault(("of copy", *key), []).append(share)
    for name, (argv, env, ways) in peers(context.build).items():
        try:
            result = run_json(argv, env)
        except Failed as failure:
            context.say(f"    {name} left out: {failure}")
            continue
        versions[name] = result["version"]
        for op, ms in result["median_ms"].items():
            for way in (way for way in ways if op in ops_of(way)):
                samples.setdefault((name, way, op), []).append(ms)


def measure(context):
    rounds = 1 if context.quick else 5
    samples, versions, rows, goals = {}, {}, [], []
    for _ in range(rounds):
        one_round(context, samples, versions)
    for way, need in NEED.items():
        for op in ops_of(way):
            mine = samples["dsrun", way, op]
            others = {name: ms for (name, over, what), ms in samples.items()
                      if (over, what) == (way, op) and name not in ("dsrun", "of copy")
                      and len(ms) == rounds}
            for name, ms in {"dsrun": mine, **others}.items():
                row = {"name": name, "op": op, "over": way, "median_ms": round(statistics.median(ms), 2),
                       "gb_s": round(BYTES / statistics.median(ms) / 1e6, 2), "samples_ms": ms,
                       "version": versions.get(name)}
                if name == "dsrun":
                    row["of_copy"] = round(statistics.median(samples["of copy", way, op]), 2)
                rows.append(row)
                context.say(f"    {op:<15} {way:<7} {name:<8} {row['median_ms']:8.2f} ms "
                            f"{row['gb_s']:7.2f} GB/s" +
                            (f"  {row['of_copy']:.0%} of copy" if name == "dsrun" and way != "once" else ""))
            goals.append(judge(f"{op} of 64 MiB, 2 ranks, {way}", mine, others, need))
    return rows, goals


def judge(text, mine, others, need):
    if not others:
        return goal(text, None, None, "GB/s", need)
    best = min(others, key=lambda name: statistics.median(others[name]))
    ours_rate, best_rate = (round(BYTES / statistics.median(ms) / 1e6, 2)
                            for ms in (mine, others[best]))
    return goal(f"{text}, against {best}", ours_rate, best_rate, "GB/s", need,
                ratio=paired(others[best], mine))
