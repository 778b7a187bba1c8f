#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""bad_input - wrong command lines, job files, data, weights and checkpoints through the real dsrun.

Each row of a table ends with the right exit code and one error line that names the trouble; nothing
crashes, nothing is left running, and a finished checkpoint stays as it was.
"""
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess

import harness as h

USAGE, DATA, FAILURE = 2, 65, 1
STRIDE = 16 if h.SANITIZED else 1  # of truncations

JOB = """\
name: bad
seed: 1
model:
  arch: gpt2
  layers: 1
  hidden: 16
  heads: 2
  context: 16
data:
  train: [train.txt]
  valid: [train.txt]
train:
  steps: 2
  global_batch: 2
  micro_batch: 1
optim: {lr: 1.0e-3}
checkpoint: {every: 1, keep: 2}
eval: {every: 0}
launch: {device: cpu, threads: 1}
"""

# --- the tables -----------------------------------------------------------------------------------
# Command lines: (words, exit code, what the error line says).
COMMANDS = [
    ([], USAGE, None),
    (["--no-such-option", "job.yaml"], USAGE, r"no-such-option"),
    (["-Z", "job.yaml"], USAGE, r"-?Z"),
    (["run"], USAGE, r"job|JOB"),
    (["missing.yaml"], USAGE, r"missing\.yaml"),
    (["check", "missing.yaml"], USAGE, r"missing\.yaml"),
    (["check", "."], None, r"."),
    (["--slots"], USAGE, r"slots"),
    (["--slots", "0", "job.yaml"], USAGE, r"slots"),
    (["--slots", "two", "job.yaml"], USAGE, r"slots"),
    (["--slots", "-1", "job.yaml"], USAGE, r"slots"),
    (["--slots", "99999999999999999999999", "job.yaml"], USAGE, r"slots"),
    (["--slots", "100000", "job.yaml"], USAGE, r"slots"),
    (["--via", "pigeon", "job.yaml"], USAGE, r"via"),
    (["--color", "mauve", "job.yaml"], USAGE, r"color"),
    (["--grace", "soon", "job.yaml"], USAGE, r"grace"),
    (["--restarts", "-2", "job.yaml"], USAGE, r"restarts"),
    (["--hostfile", "no-hosts.yaml", "job.yaml"], USAGE, r"no-hosts\.yaml"),
    (["--env", "=x", "job.yaml"], USAGE, r"env"),
    (["job.yaml", "train.steps"], None, r"train\.steps"),
    (["job.yaml", "=3"], None, r"."),
    (["job.yaml", "train.stps=3"], DATA, r"train\.stps.*train\.steps"),
    (["job.yaml", "train.steps=0"], DATA, r"train\.steps"),
    (["job.yaml", "train.steps=1e3"], DATA, r"train\.steps"),
    (["job.yaml", "optim.lr=nan"], DATA, r"optim\.lr"),
    (["job.yaml", "model.layers=[1, 2]"], DATA, r"model\.layers"),
    (["ckpt"], USAGE, r"."),
    (["ckpt", "frobnicate"], USAGE, r"frobnicate"),
    (["ckpt", "ls"], USAGE, r"."),
    (["ckpt", "ls", "no-such-run"], USAGE, r"no-such-run"),
    (["ckpt", "verify", "no-such-run"], USAGE, r"no-such-run"),
    (["ckpt", "export", "no-such-run", "out"], USAGE, r"no-such-run"),
    (["ckpt", "import", "no-such-folder", "out"], USAGE, r"no-such-folder"),
    (["bench"], USAGE, r"."),
    (["bench", "frobnicate"], USAGE, r"frobnicate"),
]

# Job files: (text to replace, its replacement, what the error line says); all end with 65.
JOBS = [
    ("steps: 2", "stpes: 2", r":13:\d+: .*stpes.*steps"),
    ("steps: 2", "steps: two", r":13:\d+: .*steps"),
    ("steps: 2", "steps: -2", r":13:\d+: .*steps"),
    ("steps: 2", "steps: 2.5", r":13:\d+: .*steps"),
    ("steps: 2", "steps: 0x10", r":13:\d+: .*steps"),
    ("steps: 2", "steps: 0", r":13:\d+: .*steps"),
    ("steps: 2", "steps: 18446744073709551616", r":13:\d+: .*steps"),
    ("steps: 2", "steps: 2\n  steps: 3", r":14:\d+: .*steps"),
    ("steps: 2", "steps: &a 2", r":13:\d+: .*anchor"),
    ("steps: 2", "steps: *a", r":13:\d+: "),
    ("steps: 2", "steps: !!int 2", r":13:\d+: .*tag"),
    ("  steps: 2\n", "", r"train\.steps"),
    ("name: bad", "name: ../../etc", r":1:\d+: .*name"),
    ("name: bad", "name: " + "x" * 65, r":1:\d+: .*name"),
    ("name: bad", "name: bad\n---\nname: two", r":\d+:\d+: .*document"),
    ("name: bad", "name: bad\nname: again", r":2:\d+: .*name"),
    ("name: bad", "name: 'bad", r":\d+:\d+: "),
    ("name: bad", "name: [bad", r":\d+:\d+: "),
    ("name: bad", "\tname: bad", r":\d+:\d+: "),
    ("name: bad", "name: b\x01d", r"."),
    ("name: bad", "- name: bad", r":\d+:\d+: "),
    ("name: bad", "name: {a: b}", r":1:\d+: .*name"),
    ("name: bad", "nodes: " + "[" * 40 + "]" * 40, r":1:\d+: .*(deep|depth|level|nest)"),
    ("name: bad", "name: [" + "a," * 20000 + "]", r":\d+:\d+: .*(10000|nodes|entries)"),
    ("name: bad", "name: bad\n#" + "x" * 300000, r"262144|256 KiB|large"),
    ("arch: gpt2", "arch: mamba", r":4:\d+: .*mamba"),
    ("arch: gpt2", "arch: llama", r"ffn"),
    ("  arch: gpt2\n", "", r"model\.arch"),
    ("layers: 1", "layers: 5000", r":5:\d+: .*layers.*1024"),
    ("layers: 1", "layers: true", r":5:\d+: .*layers"),
    ("heads: 2", "heads: 3", r":7:\d+: .*heads.*hidden"),
    ("heads: 2", "heads: 2\n  kv_heads: 3", r"kv_heads"),
    ("context: 16", "context: 16\n  vocab: 100", r"vocab|256"),
    ("context: 16", "context: 16\n  norm_eps: .nan", r"norm_eps"),
    ("context: 16", "context: 16\n  init: {std: 1, from: x}", r"init"),
    ("context: 16", "context: 16\n  init: {from: nowhere}", r"nowhere|exist"),
    ("global_batch: 2", "global_batch: 3\n  sequence: 17", r"sequence"),
    ("micro_batch: 1", "micro_batch: 3", r"global_batch|micro_batch"),
    ("optim: {lr: 1.0e-3}", "optim: {lr: -1}", r"optim\.lr|lr"),
    ("optim: {lr: 1.0e-3}", "optim: {lr: .inf}", r"lr"),
    ("optim: {lr: 1.0e-3}", "optim: {betas: [0.9]}", r"betas"),
    ("optim: {lr: 1.0e-3}", "optim: {betas: [0.9, 1.0]}", r"betas"),
    ("optim: {lr: 1.0e-3}", "optim: {name: sdg}", r"sdg"),
    ("optim: {lr: 1.0e-3}", "schedule: {kind: cosine, min_lr: 1}", r"min_lr"),
    ("optim: {lr: 1.0e-3}", "schedule: {kind: triangle}", r"triangle"),
    ("optim: {lr: 1.0e-3}", "schedule: {warmup: 10, steps: 5}", r"warmup"),
    ("optim: {lr: 1.0e-3}", "precision: {compute: fp8}", r"fp16.*fp8"),
    ("optim: {lr: 1.0e-3}", "parallel: {expert: 2}", r"expert.*divides experts.*gpt2 has none; use 1"),
    ("arch: gpt2", "arch: gpt2\n  experts: 4", r"model.experts.*is for mixtral and qwen3_moe, not for gpt2; leave it out"),
    ("optim: {lr: 1.0e-3}", "parallel: {tensor: 2}", r"tensor.*must divide the number of ranks, 1; 1 would do"),
    ("optim: {lr: 1.0e-3}", "parallel: {tensor: 3}", r"tensor.*must divide .model\.heads."),
    ("optim: {lr: 1.0e-3}", "zero: {stage: 4}", r"stage.*between 0 and 3"),
    ("optim: {lr: 1.0e-3}", "offload: {optim: nvme}", r":\d+:\d+: 'offload.optim' nvme needs 'offload.path'"),
    ("optim: {lr: 1.0e-3}", "activation: {recompute: some}", r"selective.*some"),
    ("optim: {lr: 1.0e-3}", "log: {sinks: [tensorbord]}", r"tensorboard.*not .tensorbord"),
    ("optim: {lr: 1.0e-3}", "log: {sinks: [printer]}", r"printer"),
    ("optim: {lr: 1.0e-3}", "guard: {nonfinite: pray}", r"pray"),
    ("eval: {every: 0}", "eval: {every: 1, batches: 0}", r"batches"),
    ("keep: 2", "keep: 0", r"keep"),
    ("device: cpu", "device: tpu", r"tpu"),
    ("device: cpu", "slots: 0", r"slots"),
    ("device: cpu", "env: {RANK: 7}", r"RANK"),
    ("train: [train.txt]", "train: []", r"data\.train"),
    ("train: [train.txt]", "train: [train.txt]\n  tokenizer: nowhere.json", r"cannot open 'nowhere.json'"),
    ("train: [train.txt]", "train: [train.txt]\n  tokenizer: train.txt", r"'train.txt': line 1 column"),
    ("train: [train.txt]", "train: [train.txt]\n  format: parquet", r"parquet"),
]

# Job files as a whole.
WHOLE = [
    ("empty", b""),
    ("blank", b"\n\n# nothing\n"),
    ("a list", b"[1, 2, 3]\n"),
    ("a word", b"hello\n"),
    ("NUL bytes", b"name: a\0b\n"),
    ("not UTF-8", b"name: \xff\xfe\n"),
    ("UTF-16", JOB.encode("utf-16")),
    ("an ELF program", b"\x7fELF\x02\x01\x01" + bytes(64)),
    ("merge key", b"a: {b: 1}\n<<: {c: 2}\n"),
    ("deep brackets", b"[" * 100000),
]


# --- running one row --------------------------------------------------------------------------------

def error_lines(ran):
    """dsrun's own error lines, and those it shows of the rank that failed first: "[host rank] ..."."""
    lines = [line for line in ran.stderr.splitlines() if "error:" in line]
    return [line for line in lines if line.startswith("dsrun:")], [line for line in lines if line.startswith("[")]


def refused(name, ran, codes, pattern):
    """One test point: exit code, one error line, its text, no sign of a crash.

    Where a rank found the trouble, its sentence is shown with its label, and dsrun's says how it ended.
    """
    codes = codes if isinstance(codes, tuple) else (codes,)
    (own, rank), output = error_lines(ran), ran.stdout + ran.stderr
    wrong = []
    if codes != (None,) and ran.returncode not in codes:
        wrong.append(f"exit {ran.returncode}, not {' or '.join(map(str, codes))}")
    if not 0 < ran.returncode < 128:
        wrong.append(f"exit {ran.returncode}")
    if pattern is not None and (len(own) != 1 or len(rank) > 1):
        wrong.append(f"{len(own)} error lines of dsrun, {len(rank)} of a rank")
    if pattern is not None and not any(re.search(pattern, line) for line in (rank or own)):
        wrong.append(f"no error line with /{pattern}/")
    for sign in ("Sanitizer", "runtime error", "Assertion", "core dumped", "Segmentation"):
        if sign in output:
            wrong.append(sign)
    return h.ok(not wrong, name, "\n".join(wrong) + "\n" + output[-1500:])


def dsrun(*words, **more):
    return h.dsrun(*words, cwd=h.work(), **more)


def command_lines():
    for words, code, pattern in COMMANDS:
        refused("dsrun " + " ".join(w[:40] for w in words), dsrun(*words), code, pattern)


def job_files():
    for old, new, pattern in JOBS:
        assert JOB.count(old) == 1, old
        (h.work() / "wrong.yaml").write_text(JOB.replace(old, new))
        ran = dsrun("check", "wrong.yaml")
        codes = (DATA, USAGE) if "nowhere" in new else (DATA,)
        refused(f"job: {new.strip()[:60]!r}", ran, codes, pattern)
    for name, content in WHOLE:
        (h.work() / "wrong.yaml").write_bytes(content)
        refused(f"job: {name}", dsrun("check", "wrong.yaml"), DATA, r"wrong\.yaml")


# --- data ---------------------------------------------------------------------------------------------

def safetensors(tensors):
    """bytes of a file with {name: (dtype, shape, payload)}."""
    header, body = {}, b""
    for name, (dtype, shape, payload) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(payload)]}
        body += payload
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


SAMPLES = safetensors({"tokens": ("I32", [4, 17], struct.pack("<68i", *range(68)))})


def with_header(text, body=b"", size=None):
    return struct.pack("<Q", len(text) if size is None else size) + text + body


# (name, file name, content, exit code, what the error line says)
DATA_FILES = [
    ("no such file", "absent.txt", None, (USAGE, DATA), r"absent\.txt"),
    ("empty text", "empty.txt", b"", DATA, r"empty\.txt"),
    ("text of one byte", "one.txt", b"x", DATA, r"one\.txt"),
    ("a folder", "folder.txt", "folder", None, r"folder\.txt"),
    ("half a token", "odd.bin", b"\1\0" * 40 + b"\1", DATA, r"odd\.bin"),
    ("token outside the vocabulary", "large.bin", struct.pack("<40H", *([1] * 5 + [999] + [1] * 34)), DATA, r"large\.bin.*999.*byte 10\b"),
    ("llm.c header, unknown version", "v.bin", struct.pack("<256i", 20240520, 99, 40, *[0] * 253) + bytes(80), DATA, r"v\.bin"),
    ("llm.c header, count too large", "n.bin", struct.pack("<256i", 20240520, 1, 1 << 30, *[0] * 253) + bytes(80), DATA, r"n\.bin"),
    ("llm.c header, negative count", "m.bin", struct.pack("<256i", 20240520, 1, -5, *[0] * 253) + bytes(80), DATA, r"m\.bin"),
    ("samples: too short for a length", "a.safetensors", b"\1\2\3", DATA, r"a\.safetensors"),
    ("samples: length 2^64 - 1", "b.safetensors", b"\xff" * 8 + b"{}", DATA, r"b\.safetensors"),
    ("samples: length 2^63", "c.safetensors", struct.pack("<Q", 1 << 63) + b"{}", DATA, r"c\.safetensors"),
    ("samples: not JSON", "d.safetensors", with_header(b"{nonsense"), DATA, r"d\.safetensors"),
    ("samples: a list", "e.safetensors", with_header(b"[1, 2]  "), DATA, r"e\.safetensors"),
    ("samples: no tensor 'tokens'", "f.safetensors", safetensors({"x": ("I32", [1, 17], bytes(68))}), DATA, r"tokens"),
    ("samples: floats", "g.safetensors", safetensors({"tokens": ("F32", [1, 17], bytes(68))}), DATA, r"g\.safetensors.*F32|F32"),
    ("samples: unknown type", "h.safetensors", safetensors({"tokens": ("Q9", [1, 17], bytes(68))}), DATA, r"h\.safetensors"),
    ("samples: wrong last dimension", "i.safetensors", safetensors({"tokens": ("I32", [1, 9], bytes(36))}), DATA, r"i\.safetensors|17"),
    ("samples: shape says more than the bytes", "j.safetensors", safetensors({"tokens": ("I32", [9, 17], bytes(68))}), DATA, r"j\.safetensors"),
    ("samples: shape overflows", "k.safetensors", safetensors({"tokens": ("I32", [1 << 62, 17], bytes(68))}), DATA, r"k\.safetensors"),
    ("samples: negative shape", "l.safetensors", safetensors({"tokens": ("I32", [-1, 17], bytes(68))}), DATA, r"l\.safetensors"),
    ("samples: scalar", "o.safetensors", safetensors({"tokens": ("I32", [], bytes(4))}), DATA, r"o\.safetensors"),
    ("samples: token outside the vocabulary", "p.safetensors", safetensors({"tokens": ("I32", [1, 17], struct.pack("<17i", *[-1] * 17))}), DATA, r"p\.safetensors"),
    ("samples: offsets backwards", "q.safetensors",
     with_header(b'{"tokens":{"dtype":"I32","shape":[1,17],"data_offsets":[68,0]}}', bytes(68)), DATA, r"q\.safetensors"),
    ("samples: offsets overflow", "r.safetensors",
     with_header(b'{"tokens":{"dtype":"I32","shape":[1,17],"data_offsets":[18446744073709551600,18446744073709551668]}}', bytes(68)), DATA, r"r\.safetensors"),
]


def data_files():
    for name, file_name, content, code, pattern in DATA_FILES:
        path = h.work() / file_name
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        shutil.rmtree(h.work() / "run-data", ignore_errors=True)
        ran = dsrun("--run-dir", "run-data", "job.yaml", f"data.train={file_name}", "data.valid=[]")
        refused(f"data: {name}", ran, code, pattern)


def cut_everywhere(name, whole, path, words, step=1):
    """Truncate a file at every `step`-th byte; each cut is refused by name.  One test point."""
    wrong = []
    for cut in range(0, len(whole), step * STRIDE):
        path.write_bytes(whole[:cut])
        ran = dsrun(*words)
        if ran.returncode != DATA or len(error_lines(ran)[0]) != 1:
            wrong.append(f"cut at {cut}: exit {ran.returncode}: {ran.stderr.strip()[-200:]}")
    path.write_bytes(whole)
    h.ok(not wrong, f"{name}: cut at every {step * STRIDE}. byte", "\n".join(wrong[:5]))


# --- weights and checkpoints ------------------------------------------------------------------------

def digest(folder):
    """{relative path: hash} of every file below a folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def newest(run):
    return max((run / "checkpoints").glob("step-*"))


def hf_folders(run):
    """Hugging Face folders, each damaged in one way."""
    good = h.work() / "hf"
    h.ok(dsrun("ckpt", "export", run, good).returncode == 0, "a good folder is exported")
    config = json.loads((good / "config.json").read_text())
    weights = (good / "model.safetensors").read_bytes()
    rows = [
        ("no config.json", "config.json", None, (USAGE, DATA), r"config\.json"),
        ("config.json cut", "config.json", json.dumps(config)[:-5].encode(), DATA, r"config\.json"),
        ("config.json is a list", "config.json", b"[]", DATA, r"config\.json"),
        ("unknown model_type", "config.json", json.dumps({**config, "model_type": "bert"}).encode(), DATA, r"bert"),
        ("layers as text", "config.json", json.dumps({**config, "n_layer": "one"}).encode(), DATA, r"n_layer"),
        ("negative layers", "config.json", json.dumps({**config, "n_layer": -1}).encode(), DATA, r"n_layer"),
        ("other shape", "config.json", json.dumps({**config, "n_embd": 32}).encode(), DATA, r"."),
        ("one layer more", "config.json", json.dumps({**config, "n_layer": 2}).encode(), DATA, r"."),
        ("no weights", "model.safetensors", None, (USAGE, DATA), r"safetensors"),
        ("weights cut", "model.safetensors", weights[:-1], DATA, r"model\.safetensors"),
        ("weights with a byte more", "model.safetensors", weights + b"x", DATA, r"model\.safetensors"),
        ("weights of zeros", "model.safetensors", bytes(len(weights)), DATA, r"model\.safetensors"),
        ("weights of another type", "model.safetensors", weights.replace(b'"F32"', b'"I32"', 1), DATA, r"."),
        ("weights without a tensor", "model.safetensors", safetensors({"wte.weight": ("F32", [256, 16], bytes(16384))}), DATA, r"."),
    ]
    for name, file_name, content, code, pattern in rows:
        folder = h.work() / "hf-wrong"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        if content is None:
            (folder / file_name).unlink()
        else:
            (folder / file_name).write_bytes(content)
        shutil.rmtree(h.work() / "imported", ignore_errors=True)
        refused(f"import: {name}", dsrun("ckpt", "import", folder, "imported"), code, pattern)
        h.ok(not list((h.work()).glob("imported/manifest.json")), f"import: {name}: no checkpoint is made")
    folder = h.work() / "hf-wrong"
    shutil.rmtree(folder)
    shutil.copytree(good, folder)
    size = 8 + struct.unpack_from("<Q", weights)[0]
    path = folder / "model.safetensors"
    wrong = []
    for cut in list(range(0, size, 7 * STRIDE)) + [size, size + 1, len(weights) - 1]:
        path.write_bytes(weights[:cut])
        ran = dsrun("ckpt", "import", folder, "imported")
        if ran.returncode != DATA or len(error_lines(ran)[0]) != 1:
            wrong.append(f"cut at {cut}: exit {ran.returncode}: {ran.stderr.strip()[-200:]}")
    h.ok(not wrong, "import: weights cut all along the header", "\n".join(wrong[:5]))


def damaged_checkpoints(run):
    """Every file of a checkpoint, damaged in several ways, is refused by verify and by export."""
    step = newest(run)
    name = str(step.relative_to(h.work()))
    for path in sorted(p for p in step.iterdir() if p.is_file()):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) * 2 // 3] ^= 0x40
        for how, content in (("cut in half", whole[:len(whole) // 2]), ("empty", b""), ("gone", None),
                             ("one bit flipped", bytes(flipped))):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            refused(f"verify: {path.name} {how}", dsrun("ckpt", "verify", name), (DATA, USAGE), r".")
            path.write_bytes(whole)
    manifest = step / "manifest.json"
    cut_everywhere("verify: manifest.json", manifest.read_bytes(), manifest, ("ckpt", "verify", name),
                   max(1, len(manifest.read_bytes()) // 150))
    h.ok(dsrun("ckpt", "verify", name).returncode == 0, "verify: whole again")


def resume(run):
    """A job that does not fit its checkpoint is refused; a damaged newest one gives way to the one before."""
    before = digest(run / "checkpoints")
    refused("resume: another width", dsrun("--run-dir", run, "job.yaml", "model.hidden=32"), DATA, r".")
    refused("resume: another depth", dsrun("--run-dir", run, "job.yaml", "model.layers=2"), DATA, r".")
    for words, said in (("model.heads=4", r"'model\.heads' was 2 there and is 4"), ("model.tie_embeddings=false", r"'model\.tie_embeddings' was 1")):
        refused(f"resume: another model of the same tensors, or more, {words}", dsrun("--run-dir", run, "job.yaml", words), DATA, said)
    deeper = dsrun("--run-dir", "run-deeper", "job.yaml", "model.layers=2")
    h.ok(deeper.returncode == 0, "resume: a deeper model", deeper.stderr)
    refused("resume: some of its layers", dsrun("--run-dir", "run-deeper", "job.yaml", "train.steps=3"), DATA, r"'model\.layers' was 2")
    refused("resume: no such checkpoint", dsrun("--run-dir", run, "job.yaml", "checkpoint.resume=nowhere"), (USAGE, DATA), r"nowhere")
    h.ok(digest(run / "checkpoints") == before, "resume: the checkpoints are as they were")

    part = sorted(newest(run).glob("*.safetensors"))[0]
    damaged = bytearray(part.read_bytes())
    damaged[-3] ^= 1
    part.write_bytes(damaged)
    ran = dsrun("--run-dir", run, "job.yaml", "train.steps=3", "checkpoint.keep=5")
    h.ok(ran.returncode == 0, "resume: auto goes on from the newest whole checkpoint", ran.stderr)
    h.ok(part.parent.name in ran.stdout + ran.stderr, "resume: auto says which one is damaged",
         ran.stdout + ran.stderr)
    h.ok(dsrun("ckpt", "verify", run).returncode == 0, "resume: the latest is whole")


def numbers_and_places():
    """NaN loss, a folder that cannot be written."""
    nan = h.work() / "run-nan"
    ran = dsrun("--run-dir", nan, "job.yaml", "optim.lr=1000", "optim.clip=0", "model.init.std=10",
                "train.steps=200", "guard.nonfinite=abort", "checkpoint.every=0")
    if ran.returncode == 0:
        h.skip("NaN loss: abort", "this model stayed finite")
    else:
        refused("NaN loss: abort", ran, 65, r"finite")
    (h.work() / "a-file").write_text("x")
    refused("run_dir below a file", dsrun("--run-dir", "a-file/run", "job.yaml"), None, r"a-file")
    refused("run_dir is a file", dsrun("--run-dir", "a-file", "job.yaml"), None, r"a-file")
    refused("run_dir in /proc", dsrun("--run-dir", "/proc/run", "job.yaml"), None, r"/proc/run")


FULL = """\
set -u
mount -t tmpfs -o size=2m none disk || exit 99
{dsrun} --run-dir disk/run job.yaml checkpoint.keep=9 >first.log 2>&1 || exit 98
dd if=/dev/zero of=disk/ballast bs=4k 2>/dev/null
truncate -s -64K disk/ballast
{dsrun} --run-dir disk/run job.yaml train.steps=9 checkpoint.keep=9
echo $? >full.code
{dsrun} ckpt verify disk/run >verify.log 2>&1
echo $? >verify.code
"""


def full_disk():
    """On a small file system of its own: the save fails with a reason, the finished one stays whole."""
    (h.work() / "disk").mkdir()
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c",
               FULL.format(dsrun=h.DSRUN)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=h.work(), env=h.environment(),
                         timeout=120, check=False)
    if ran.returncode in (1, 99):
        h.skip("full disk", "no mount namespace here")
        return
    if not h.ok(ran.returncode == 0, "full disk: the first run has room", (h.work() / "first.log").read_text()):
        return
    ran.returncode = int((h.work() / "full.code").read_text())
    refused("full disk: the job says so", ran, None, r"[Nn]o space")
    h.ok((h.work() / "verify.code").read_text() == "0\n", "full disk: the finished checkpoint is whole",
         (h.work() / "verify.log").read_text())


def two_ranks():
    """Both ranks meet the trouble: it is still said once."""
    refused("two ranks: a token outside the vocabulary",
            dsrun("--slots", 2, "--run-dir", "run-two", "job.yaml", "data.train=large.bin", "data.valid=[]"),
            DATA, r"large\.bin")
    refused("two ranks: a batch that does not divide",
            dsrun("--slots", 2, "--run-dir", "run-two", "job.yaml", "train.global_batch=3"), DATA, r"global_batch")


def few_files():
    """What an agent has no room for."""
    ran = subprocess.run(["sh", "-c", f"ulimit -n 32; exec {h.DSRUN} --run-dir run-few job.yaml"], capture_output=True,
                         text=True, cwd=h.work(), env=h.environment(), check=False)
    h.ok(ran.returncode == 69 and "more open files must be allowed (ulimit -n)" in ran.stderr, "few files: the limit is named", ran.stderr)


os.chdir(h.work())
(h.work() / "job.yaml").write_text(JOB)
h.text_file("train.txt")
command_lines()
job_files()
data_files()
samples = h.work() / "cut.safetensors"
cut_everywhere("data: samples", SAMPLES, samples, ("--run-dir", "run-data", "job.yaml",
               "data.train=cut.safetensors", "data.valid=[]"), 5)
finished = h.work() / "run"
first = dsrun("--run-dir", finished, "job.yaml")
if h.ok(first.returncode == 0, "the job itself is good", first.stdout + first.stderr):
    damaged_checkpoints(finished)
    hf_folders(finished)
    resume(finished)
    numbers_and_places()
    two_ranks()
full_disk()
few_files()
h.ok(not h.left(), "nothing is left running", h.processes())
h.done()
