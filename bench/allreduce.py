# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""allreduce.py - 64 MiB of fp32 between 2 ranks, in place: dsrun, gloo and MPI in turn."""
import os
import statistics

from common import HERE, PYTHON, Failed, goal, paired, run_json, torch_env, torch_version

MIB, REPS = 64, 9
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]


def programs(build):
    """name -> (argv, environment), or the reason why it is left out."""
    found = {"dsrun": ([build + "/bench/allreduce", str(MIB), str(REPS)], {})}
    if torch_version():
        found["gloo"] = ([PYTHON, HERE + "/peers/ranks.py", "2", HERE + "/peers/gloo_allreduce.py",
                          str(MIB), str(REPS)], torch_env(1))
    if os.path.exists(build + "/bench/mpi_allreduce"):
        found["mpi"] = (MPIRUN + [build + "/bench/mpi_allreduce", str(MIB), str(REPS)], {})
    return found


def measure(context):
    rounds = 2 if context.quick else 5
    times, version = {}, {}
    for _ in range(rounds):
        for name, (argv, env) in programs(context.build).items():
            try:
                result = run_json(argv, env)
            except Failed as failure:
                if name == "dsrun":
                    raise
                context.say(f"    {name} left out: {failure}")
                continue
            times.setdefault(name, []).append(result["median_ms"])
            version[name] = result.get("version")
    rows = [{"name": name, "median_ms": round(statistics.median(ms), 2), "min_ms": min(ms),
             "gb_s": round((MIB << 20) / statistics.median(ms) / 1e6, 2), "version": version[name]}
            for name, ms in times.items()]
    for row in rows:
        context.say(f"    {row['name']:<8} {row['median_ms']:8.2f} ms  {row['gb_s']:6.2f} GB/s")
    peers = {name: statistics.median(ms) for name, ms in times.items()
             if name != "dsrun" and len(ms) == rounds}
    text = f"all-reduce of {MIB} MiB, 2 ranks, in place, against the faster of gloo and MPI"
    if not peers:
        return rows, [goal(text, None, None, "GB/s", 5.0)]
    best = min(peers, key=peers.get)
    rate = {name: (MIB << 20) / statistics.median(ms) / 1e6 for name, ms in times.items()}
    return rows, [goal(f"{text} ({best})", round(rate["dsrun"], 2), round(rate[best], 2), "GB/s",
                       5.0, ratio=paired(times[best], times["dsrun"]))]
