# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""gpu_kernels.py - rates of kernels by themselves, from gpu_kernels.c; bench/gpu.py calls it.

Kernels that move memory against a copy on the same device, matrix products as they are chosen against
the fastest of cuBLASLt's proposals, those of experts against one product of as many FLOPs, attention beside
PyTorch's backends where they are there.
"""
import json
import os
import statistics

from common import HERE, Failed, run

COPY_SHARE, BEST_SHARE, EXPERTS_SHARE = 0.85, 0.95, 0.6
ATTENTION = [["attention d64 1k", 64, 1024, 12, 12, 64],
             ["attention d64 4k grouped", 2, 4096, 32, 8, 64],
             ["attention d128 4k grouped", 2, 4096, 32, 8, 128]]


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


class Programs:
    """Where the program and the plug-in are, how much smaller everything is, and what they need to run."""

    def __init__(self, build, shrink, env):
        build = os.path.abspath(build)
        libexec = os.environ.get("DSRUN_LIBEXEC", build + "/libexec/dsrun")
        self.words, self.env = [build + "/gpu/bench_kernels", libexec + "/dsrun-cuda.so"], env
        self.shrink = [str(shrink)] if shrink > 1 else []

    def run(self, found, what, limit_s, **env):
        """Into `found` by name: samples, median, and amount a second in units of 1e12; what there is, at a failure."""
        failed, said = None, ""
        try:
            said = run([*self.words, what, *self.shrink], {**self.env, **env}, limit_s)
        except Failed as failure:
            failed, said = failure, failure.output
        for kernel in lines(said):
            kernel["median_us"] = statistics.median(kernel["us"])
            kernel["tera"] = kernel.get("bytes", kernel.get("flops")) / kernel["median_us"] / 1e6
            found[kernel["what"]] = kernel
        if failed:
            raise failed
        return found


def beside_copy(found):
    """Rows of a table: name, time, rate, share, goal."""
    copy = found["copy"]["tera"]
    return [(name, k["median_us"], f"{k['tera']:.2f} TB/s", k["tera"] / copy, COPY_SHARE)
            for name, k in found.items() if "bytes" in k]


def beside_best(found, best):
    """The same of products, with what the fastest algorithms took."""
    rows = []
    for name, k in found.items():
        if "flops" not in k:
            continue
        k["best_us"], k["best_tera"] = best[name]["us"], max(best[name]["tera"], k["tera"])
        rows.append((name, k["median_us"], f"{k['tera']:.0f} TFLOP/s", k["tera"] / k["best_tera"], BEST_SHARE))
    return rows


def memory(found, programs, left):
    return beside_copy(programs.run(found, "memory", left()))


def products(found, programs, left, kept):
    """The choices that were measured stay in the file `kept`."""
    programs.run(found, "products", left())
    return beside_best(found, programs.run({}, "products", left(), DSRUN_CUDA_PRODUCTS=kept))


def fp8(found, programs, left, kept):
    """Casts as what moves memory, products as products are."""
    programs.run(found, "fp8", left())
    best = programs.run({}, "fp8", left(), DSRUN_CUDA_PRODUCTS=kept)
    casts = [row for row in beside_copy(found) if row[0] != "copy"]
    return casts + beside_best(found, best)


def experts(found, programs, left):
    """The share is that of one product with a single matrix."""
    programs.run(found, "experts", left())
    rows = []
    for name, k in found.items():
        layer, way = name.rsplit(" ", 1)
        if not layer.endswith(", dense"):
            rows.append((name, k["median_us"], f"{k['tera']:.0f} TFLOP/s",
                         k["tera"] / found[f"{layer}, dense {way}"]["tera"], EXPERTS_SHARE))
    return rows


def torchs_attention(python, limit_s, missing):
    """What PyTorch's backends take; what it could not is no reason to have nothing of ours."""
    try:
        return lines(run([python, HERE + "/peers/torch_attention.py", json.dumps(ATTENTION)], None, limit_s))
    except Failed as failed:
        missing.append(("attention of PyTorch", failed))
        return lines(failed.output)


def attention(found, programs, left, python, missing):
    """By cuDNN where it can be used, and by our own kernels.  The share is that of the fastest of PyTorch's
    backends and cuDNN; where there is neither, there is none."""
    rows = []
    for way in ("cudnn", "own"):
        try:
            programs.run(found.setdefault(way, {}), "attention", left(), DSRUN_CUDA_ATTENTION=way)
        except Failed as failed:
            if way == "own" or not any(words in str(failed) for words in ("cannot be used", "for this GPU")):
                raise
            del found[way]
    peers = torchs_attention(python, left(), missing) if python is not None else []
    for name, *_ in ATTENTION:
        for suffix, key in (("", "us"), (" backward", "backward_us")):
            best = [p[key] for p in peers if p["what"] == name]
            best += [found["cudnn"][name + suffix]["median_us"]] if "cudnn" in found else []
            for way, goal in (("cudnn", 0.95), ("own", 0.6)):
                if way not in found:
                    continue
                ours = found[way][name + suffix]
                ours["peers"] = {p["backend"]: p[key] for p in peers if p["what"] == name}
                rows.append((f"{name}{suffix}, {way}", ours["median_us"], f"{ours['tera']:.0f} TFLOP/s",
                             min(best) / ours["median_us"] if best else None, goal))
    return rows


def bench(programs, left, python, kept):
    """What was measured, rows of the table, and what was not: (what, the exception that says why)."""
    results, rows, missing = {}, [], []
    for name, part in (("memory", lambda found: memory(found, programs, left)),
                       ("products", lambda found: products(found, programs, left, kept)),
                       ("fp8", lambda found: fp8(found, programs, left, kept)),
                       ("experts", lambda found: experts(found, programs, left)),
                       ("attention", lambda found: attention(found, programs, left, python, missing))):
        results[name] = {}
        try:
            rows += part(results[name])
        except (Failed, KeyError, ValueError) as failed:
            missing.append((name, failed))
    return {name: found for name, found in results.items() if found}, rows, missing


def table(rows):
    text = ["| kernel | time | rate | share | goal |", "|---|---|---|---|---|"]
    text += [f"| {name} | {us:.1f} us | {rate} | {'' if share is None else f'{share:.2f}'} | {goal} |"
             for name, us, rate, share, goal in rows]
    return "\n".join(text)


def into_readme(text):
    """Between its two marks."""
    path = os.path.join(HERE, "README.md")
    with open(path, encoding="utf-8") as file:
        before, rest = file.read().split("<!-- gpu:begin -->", 1)
    after = rest.split("<!-- gpu:end -->", 1)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}<!-- gpu:begin -->\n\n{text}\n\n<!-- gpu:end -->{after}")
