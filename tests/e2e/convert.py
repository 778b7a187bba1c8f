#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""convert - configurations of DeepSpeed through the real dsrun: what they become, and that it is a job.

tests/reference/convert/ has configurations in the style of published ones, NAME.json, each with the job file
that it becomes, NAME.yaml, and what is said about it on standard error, NAME.said. `convert.py --write` makes
these two anew.
"""
import json
import re
import sys

import harness as h

FOLDER = h.ROOT / "tests/reference/convert"
USAGE, DATA = 2, 65
HEAD = "# Copyright the dsrun contributors.\n# SPDX-License-Identifier: Apache-2.0\n"  # of what is kept
# What a configuration does not have.
MODEL = ["model.arch=gpt2", "model.layers=2", "model.hidden=32", "model.heads=2", "model.context=32"]
# Options with which each is converted.
OPTIONS = {"muon_mics": ["--nodes", "2", "--slots", "8"], "hf_zero3": ["--slots", "4"]}


def convert(name, *more, **kwargs):
    return h.dsrun("convert", f"{name}.json", *OPTIONS.get(name, []), *more, cwd=FOLDER, **kwargs)


def goldens(write):
    for path in sorted(FOLDER.glob("*.json")):
        name = path.stem
        got = convert(name)
        files = {FOLDER / f"{name}.yaml": got.stdout, FOLDER / f"{name}.said": got.stderr}
        if write:
            for file, text in files.items():
                file.write_text(HEAD + text)
        for file, text in files.items():
            h.ok(got.returncode == 0 and file.exists() and HEAD + text == file.read_text(), f"{file.name} is what comes out",
                 text)
        filled(name, got.stdout)


def keys_of(text):
    """The lines between the title and the notes."""
    return [line for line in text.split("\n#\n")[0].splitlines() if not re.match(r"# [A-Z]", line)]


def fills(text):
    """The keys that are to be filled in, as paths."""
    found, at = [], []
    for line in keys_of(text):
        match = re.match(r"#?( *)([a-z_]+):(.*)", line)
        at = at[:len(match[1]) // 2] + [match[2]]
        if "FILL IN" in match[3]:
            found.append(".".join(at))
    return found


def by_hand(text, values):
    """As an editor would: write what is asked for, and take the '#' away."""
    lines = []
    for line in keys_of(text):
        name = line.lstrip("# ").split(":")[0]
        if name == "model":
            lines += ["model: {arch: gpt2, layers: 2, hidden: 32, heads: 2, context: 32}"]
        elif name not in ("init", "from"):
            lines.append(line.removeprefix("#").replace("FILL IN", str(values.get(name))))
    return "\n".join(lines)


def filled(name, text):
    """With model, data and what else it asks for, it is a job."""
    job = h.work() / f"{name}.yaml"
    job.write_text(text)
    words, left = ["--slots", "1", "launch.device=cpu"], fills(text)
    values = {"steps": 5000, "epochs": 3, "global_batch": 64, "micro_batch": 4, "train": f"[{h.text_file()}]"}
    for path in left:
        words += MODEL if path == "model.init.from" else [f"{path}={values[path.split('.')[-1]]}"]
    h.ok("model.init.from" in left and "data.train" in left, f"{name} asks for model and data", left)
    got = h.dsrun("check", job, *words)
    h.ok(got.returncode == 0, f"{name} filled in with words passes check", got.stderr)
    job.write_text(by_hand(text, values))
    got = h.dsrun("check", job, "--slots", "1", "launch.device=cpu")
    h.ok(got.returncode == 0, f"{name} filled in by hand passes check", got.stderr + job.read_text())


def files():
    config, out = h.work() / "small.json", h.work() / "job.yaml"
    config.write_text(json.dumps({"train_batch_size": 4, "train_micro_batch_size_per_gpu": 2,
                                  "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}))
    words = [*MODEL, f"data.train=[{h.text_file()}]", "train.steps=2", "launch.device=cpu", "launch.threads=1",
             f"run_dir={h.work() / 'run'}"]
    got = h.dsrun("convert", config, "-o", out, *words)
    h.ok(got.returncode == 0 and got.stdout == "" and "FILL IN" not in out.read_text() + got.stderr,
         "with words there is nothing to fill in", got.stderr)
    got = h.dsrun(out)
    h.ok(got.returncode == 0 and len(h.metrics(h.work() / "run")) == 2, "the job file trains", got.stderr)
    before = out.read_text()
    got = h.dsrun("convert", config, "-o", out)
    h.ok(got.returncode == USAGE and "--force" in got.stderr and out.read_text() == before,
         "a file that is there stays", got.stderr)
    got = h.dsrun("convert", config, "-o", out, "--force", "-q")
    h.ok(got.returncode == 0 and got.stderr == "" and out.read_text() != before, "--force replaces it, -q is quiet",
         got.stderr)
    got = h.dsrun("convert", config, "-o", h.work() / "no" / "job.yaml")
    h.ok(got.returncode != 0 and "job.yaml" in got.stderr, "a folder that is not there is named", got.stderr)


WRONG = [
    (None, USAGE, r"missing\.json"),
    ("", DATA, r"wrong\.json:1:1: not valid JSON"),
    ('{"a": 1,}', DATA, r"wrong\.json:1:9: not valid JSON"),
    ('{\n  // why\n  "a": 1}', DATA, r"wrong\.json:2:"),
    ('{"optimizer": {"type": "Adafactor"}}', DATA, r"wrong\.json:1:16: optimizer 'Adafactor' has no counterpart"),
    ('{"train_batch_size": -4}', DATA, r"wrong\.json:1:2: 'train_batch_size' must be a whole number"),
    ("[" * 100000, DATA, r"wrong\.json:1:\d+: not valid JSON"),
    ('{"a":' * 2000 + "1" + "}" * 2000, 0, r"'a' is unknown"),
    (" " * 300000, DATA, r"larger than 262144 bytes"),
    ('{"' + "k" * 5000 + '": 1}', 0, r"is unknown"),
    ('{"name\\u001b[31m": 1}', 0, r"'name\\x1b\[31m' is unknown"),
    ('{"a\\u0000b": 1}', DATA, r"wrong\.json:1:"),
]


def wrong():
    for i, (text, code, said) in enumerate(WRONG):
        path = h.work() / ("missing.json" if text is None else "wrong.json")
        if text is not None:
            path.write_text(text)
        got = h.dsrun("convert", path)
        h.ok(got.returncode == code and re.search(said, got.stderr) and "\x1b" not in got.stderr + got.stdout,
             f"wrong input {i}: {said}", f"{got.returncode} {got.stderr[:500]}")
    (h.work() / "wrong.json").write_text("{}")
    got = h.dsrun("convert", h.work() / "wrong.json", "optim.lrr=3")
    h.ok(got.returncode == DATA and "did you mean 'optim.lr'" in got.stderr, "a misspelt word is named", got.stderr)
    with open("/dev/full", "w", encoding="utf-8") as full:
        import subprocess
        code = subprocess.run([h.DSRUN, "convert", h.work() / "wrong.json"], stdout=full, stderr=subprocess.DEVNULL,
                              check=False).returncode
    h.ok(code == 1, "a full disk is an error", code)


goldens("--write" in sys.argv)
files()
wrong()
h.done()
