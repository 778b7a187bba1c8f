#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""examples - the job files of examples/ are jobs, the large ones take what they say, and the commands that examples/finetune
names do what it says of them, one after the other, on a small model."""
import json
import re
import shutil
import subprocess
import sys

import harness as h

FOLDER = h.ROOT / "examples"
sys.path.insert(0, str(h.ROOT / "tests" / "reference" / "chat"))
import make  # noqa: E402

CASES = json.loads((h.ROOT / "tests" / "reference" / "chat" / "cases.json").read_text(encoding="utf-8"))
LLAMA_70B = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
             "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
             "tie_word_embeddings": False}
CLUSTER = """hosts: {hosts}
ranks: {ranks}
host: {{update: 100e9}}
device: {{flops: {{bf16: 600e12}}, bandwidth: 2.9e12, memory: {memory}}}
link: {{device: {{bandwidth: 50e9, latency_us: 5}}, host: {{bandwidth: 300e9, latency_us: 5}}, network: {{bandwidth: 40e9, latency_us: 10}}}}
overlap: 0.9
"""


def large():
    """Of GPUs with so much memory, and of hosts."""
    (h.work() / "Llama-3.1-70B").mkdir()
    (h.work() / "Llama-3.1-70B" / "config.json").write_text(json.dumps(LLAMA_70B))
    for name, hosts, ranks, device, host in (("llama-8b-one-gpu", 1, 1, 24e9, 160e9), ("llama-70b-adapters", 1, 2, 80e9, 256e9),
                                             ("llama-8b-two-hosts", 2, 8, 80e9, 0)):
        text = (FOLDER / "large" / f"{name}.yaml").read_text()
        job, cluster = h.work() / f"{name}.yaml", h.work() / f"{name}-cluster.yaml"
        job.write_text(re.sub(r"epochs: \d+", "steps: 1000", text))  # which are counted from data that is not here
        cluster.write_text(CLUSTER.format(hosts=hosts, ranks=ranks, memory=int(device)))
        ran = h.dsrun("plan", "--json", "--cluster", cluster, job, cwd=h.work())
        if not h.ok(ran.returncode == 0, f"{name}: is planned", ran.stderr):
            continue
        memory = json.loads(ran.stdout)["memory"]
        there = memory.get("of the host", 0) * ranks
        h.ok(memory["total"] < device and there <= host, f"{name}: fits where it says: {memory['total'] / 1e9:.1f} GB of {device / 1e9:.0f}, "
             f"{there / 1e9:.0f} of {host / 1e9:.0f} on the host", memory)
        ran = h.dsrun("check", job, cwd=h.work())
        h.ok(ran.returncode == 0, f"{name}: is a job", ran.stderr)


def commands():
    """Those in the comment of the example, which may go on in a next line."""
    lines = [line[4:] for line in (FOLDER / "finetune" / "train.yaml").read_text().splitlines() if line.startswith("#   dsrun ")]
    return [re.split(r" {3,}", line)[0] for line in lines]


def finetune():
    """A base of one step, with the tokenizer of a form of chats."""
    folder = h.work() / "finetune"
    shutil.copytree(FOLDER / "finetune", folder)
    base, tokenizer = folder / "base", h.work() / "tokenizer.json"
    tokenizer.write_text(json.dumps(make.derived(CASES["chatml"]["tokenizer"], CASES["chatml"]["added"])), encoding="utf-8")
    job = h.write_job(steps=1, batch=2, every=1, arch="llama", hidden=32, ffn=64, context=256, sequence=256)
    ran = h.dsrun("--run-dir", h.work() / "first", job, f"data.tokenizer={tokenizer}", "schedule.warmup=0")
    out = h.dsrun("ckpt", "export", h.work() / "first", base)
    if not h.ok(ran.returncode == 0 and out.returncode == 0 and (base / "tokenizer.json").exists(), "a small base", ran.stdout + ran.stderr + out.stderr):
        return
    found = {}
    for line in commands():
        done = subprocess.run(["bash", "-c", line], cwd=folder, env=h.environment(PATH=f"{h.BUILD / 'bin'}:/usr/bin:/bin"), capture_output=True,
                              text=True, timeout=120, check=False)
        h.ok(done.returncode == 0, line, done.stdout + done.stderr)
        found[line.split("--")[0].strip() if "ckpt" not in line else line] = done.stdout
    losses = [float(found[line].split("data.valid")[1].split()[0]) for line in ("dsrun eval train.yaml", "dsrun eval train.yaml checkpoint.resume=never")
              if "data.valid" in found.get(line, "")]
    h.ok(len(losses) == 2 and losses[0] < losses[1] - 0.05, "it has learnt", losses)
    h.ok((folder / "adapters" / "adapter_model.safetensors").exists() and (folder / "merged" / "model.safetensors").exists(), "both folders are there",
         sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))[:40])
    h.ok(len(commands()) == 7, "all commands of the example", commands())


def others():
    for path in sorted(FOLDER.glob("*/*.yaml")):
        if path.parent.name in ("large", "finetune", "kubernetes"):  # tested here by themselves; no job
            continue
        ran = h.dsrun("check", path, cwd=h.ROOT)
        h.ok(ran.returncode == 0, f"{path.relative_to(FOLDER)}: is a job", ran.stderr)


others()
large()
finetune()
h.done()
