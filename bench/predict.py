#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""predict - published training runs, and what `dsrun plan --cluster` says of them.

    bench/predict.py [--write]        prints the table; --write puts it into docs/predictions.md

Hardware is described once per kind in bench/clusters/; a case may only say how many hosts it had.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / os.environ.get("B", "build")
PAGE = ROOT / "docs" / "predictions.md"

GPT2 = dict(arch="gpt2", vocab=50304, context=1024)
LLAMA3 = dict(arch="llama", vocab=128256)
EAGER = "norms, rotary and SwiGLU unfused there, counted so (bench/clusters/h100-eager.yaml)"
SELECTIVE = "they compute every second product again, predicted with all"
# Name; cluster; hosts, ranks of a host (None: the file's); model; sequence; sequences per GPU and
# pass; passes; stage; recompute; published tokens/s per GPU; source; why it is off, where it is.
CASES = (
    ("GPT-2 124M, llm.c", "a100-80", 1, None, dict(GPT2, layers=12, hidden=768, heads=12),
     1024, 64, 1, 0, "none", 218e3, "llm.c scripts/run_gpt2_124M.sh", ""),
    ("GPT-2 350M, llm.c", "a100-80", 1, None, dict(GPT2, layers=24, hidden=1024, heads=16),
     1024, 64, 1, 0, "none", 79.9e3, "llm.c scripts/run_gpt2_350M.sh", ""),
    ("GPT-2 124M, llm.c", "h100", 1, None, dict(GPT2, layers=12, hidden=768, heads=12),
     1024, 64, 1, 0, "none", 468e3, "modded-nanogpt records, 2024-10-13", ""),
    ("GPT-2 124M, PyTorch 2.5", "h100", 1, None, dict(GPT2, layers=12, hidden=768, heads=6),
     1024, 64, 1, 0, "none", 462e3, "modded-nanogpt records, 2024-10-18", ""),
    ("GPT-2 1558M, llm.c, ZeRO 1", "h100", 1, None, dict(GPT2, layers=48, hidden=1600, heads=25),
     1024, 16, 8, 1, "none", 46.8e3, "llm.c scripts/run_gpt2_1558M.sh", ""),
    ("Llama 2 7B, fms-fsdp", "h100-eager", 16, None,
     dict(arch="llama", vocab=32000, context=4096, layers=32, hidden=4096, heads=32, ffn=11008),
     4096, 2, 1, 3, "none", 9600, "fms-fsdp issue 89", EAGER),
    ("Llama 3.1 8B, torchtitan, compiled", "h100-500w", 1, None,
     dict(LLAMA3, context=8192, layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336),
     8192, 2, 1, 3, "full", 6667, "torchtitan benchmarks, llama3_h100_202412", SELECTIVE),
    ("Llama 3.1 8B, torchtitan, compiled", "h100-500w", 16, None,
     dict(LLAMA3, context=8192, layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336),
     8192, 2, 1, 3, "full", 6514, "torchtitan benchmarks, llama3_h100_202412", SELECTIVE),
    ("Llama 3.2 1B shape, nanotron", "h100-eager", 1, None,
     dict(LLAMA3, context=4096, layers=16, hidden=2048, heads=32, kv_heads=8, ffn=8192,
          tie_embeddings="true"),
     4096, 4, 1, 0, "none", 42e3, "marin issue 1826", EAGER),
)


def plan(folder, case):
    _, cluster, hosts, ranks, model, sequence, micro, passes, stage, recompute, *_ = case
    text = (ROOT / "bench" / "clusters" / f"{cluster}.yaml").read_text(encoding="utf-8")
    text = text.replace("\nhosts: 1\n", f"\nhosts: {hosts}\n")
    per_host = ranks or 8
    text = text.replace("\nranks: 8\n", f"\nranks: {per_host}\n")
    (folder / "cluster.yaml").write_text(text, encoding="utf-8")
    shape = ", ".join(f"{key}: {value}" for key, value in model.items())
    (folder / "job.yaml").write_text(f"""name: published
model: {{{shape}}}
data: {{train: [none.txt]}}
train: {{steps: 1, sequence: {sequence}, micro_batch: {micro}, global_batch: {micro * passes * hosts * per_host}}}
precision: {{compute: bf16}}
zero: {{stage: {stage}}}
activation: {{recompute: {recompute}}}
""", encoding="utf-8")
    ran = subprocess.run([BUILD / "bin" / "dsrun", "plan", "--json", "--cluster",
                          folder / "cluster.yaml", folder / "job.yaml"], capture_output=True,
                         text=True, check=False)
    if not ran.stdout:
        sys.exit(f"{case[0]}: {ran.stderr}")
    found = json.loads(ran.stdout)
    return found["predicted"]["tokens_per_s"] / (hosts * per_host), found["predicted"]["mfu"]


def table():
    lines = ["| run | hardware | published tokens/s per GPU | predicted | difference | MFU | source |",
             "|---|---|---|---|---|---|---|"]
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            rate, mfu = plan(pathlib.Path(name), case)
            published, source, why = case[10:]
            off = rate / published - 1
            worst = max(worst, abs(off))
            lines.append(f"| {case[0]} | {case[2]} x {case[3] or 8} {case[1]} | {published:,.0f} | "
                         f"{rate:,.0f} | {off:+.0%} | {mfu:.1%} | {source}{'; ' + why if why else ''} |")
    return lines, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/predictions.md")
    options = parser.parse_args()
    lines, worst = table()
    print("\n".join(lines))
    print(f"largest difference {worst:.0%}")
    if options.write:
        head, rest = PAGE.read_text(encoding="utf-8").split("<!-- table:begin -->\n")
        tail = rest.split("<!-- table:end -->")[1]
        PAGE.write_text(head + "<!-- table:begin -->\n" + "\n".join(lines) + "\n<!-- table:end -->" + tail,
                        encoding="utf-8")


if __name__ == "__main__":
    main()
