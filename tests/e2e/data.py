#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""data - every rank sees the same data and one run directory, and a run that goes on sees the data that it began with,
or it is said."""
import pathlib
import shutil

import beds
import harness as h

JOB = h.write_job(steps=4, batch=4, every=1)
TEXT = h.text_file().read_text()


def going_on():
    text = h.work() / "grows.txt"
    text.write_text(TEXT)
    for steps, more, told in ((1, "", False), (2, "", False), (3, TEXT, True), (4, "", False)):
        with open(text, "a", encoding="utf-8") as file:
            file.write(more)
        ran = h.dsrun(JOB, f"data.train={text}", f"train.steps={steps}", "schedule.steps=4", "run_dir=grows")
        said = f"data.train has changed since the checkpoint was made: {text.stat().st_size} ids, it had {len(TEXT)};"
        h.ok(ran.returncode == 0 and (said in ran.stderr) == told, f"step {steps}: data that {'has' if told else 'has not'} changed",
             ran.stdout + ran.stderr)


def hosts():
    """Each host of a bed has a /tmp of its own, and a copy of the data there."""
    if beds.missing():
        h.skip("copies of hosts", beds.missing())
        return
    with beds.Hosts(2) as bed:
        for name, copy, words in (("alike", TEXT, None),
                                  ("longer", TEXT + "more", f"{len(TEXT) + 4} ids in 1 file here, and rank 0 has {len(TEXT)} in 1"),
                                  ("other", TEXT.upper(), "as many ids as rank 0 has, and not the same")):
            for key in ("train", "valid"):
                for host in ("head", *bed.names):  # dsrun looks at it, too
                    text = copy if host == "node2" else TEXT
                    (bed.base / "hosts" / host / "tmp" / f"{key}.txt").write_text(text)
                ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "checkpoint.every=0", "eval.every=2", f"data.{key}=/tmp/{key}.txt",
                              "--run-dir", f"{name}-{key}")
                good = ran.returncode == 0 if words is None else ran.returncode == 65 and f"error: data.{key}: {words}" in ran.stderr \
                    and "rank 1 on node2 ended with code 65" in ran.stderr
                h.ok(good, f"data.{key}: copies that are {name}", ran.stdout + ran.stderr)
        mixed(bed)
        run_dir(bed)
        tokenized(bed)
        weights(bed)


def mixed(bed):
    """Of a mixture every set is compared."""
    for host in ("head", *bed.names):
        folder = bed.base / "hosts" / host / "tmp"
        (folder / "train.txt").write_text(TEXT)
        (folder / "valid.txt").write_text(TEXT.upper() if host == "node2" else TEXT)
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "checkpoint.every=0", "eval.every=0", "data.valid=[]",
                  "data.train=[{path: /tmp/train.txt, weight: 9}, /tmp/valid.txt]", "--run-dir", "mixed")
    h.ok(ran.returncode == 65 and "error: data.train item 2: as many ids as rank 0 has, and not the same" in ran.stderr,
         "a set of a mixture whose copies are other", ran.stdout + ran.stderr)


def weights(bed):
    """Each rank reads its part of a model to start from; parts of two models would be none."""
    ran = bed.run(h.DSRUN, "ckpt", "export", "shared", "model")
    h.ok(ran.returncode == 0, "a folder to start from", ran.stderr)
    for host in ("head", *bed.names):
        shutil.copytree(h.work() / "model", bed.base / "hosts" / host / "tmp" / "model")
    late = bed.base / "hosts" / "node2" / "tmp" / "model" / "model.safetensors"
    path, text = h.work() / "from.yaml", pathlib.Path(JOB).read_text()
    begin = text.index("model:")
    path.write_text(text[:begin] + "model: {init: {from: /tmp/model}}\n" + text[text.index("data:"):])
    kinds = {"all of it": [], "what is frozen": ["train.freeze=*.bias"], "what adapters are beside": ["lora.rank=2"]}
    for name, words in kinds.items():
        ran = bed.run(h.DSRUN, "-H", bed.hostfile, path, "checkpoint.every=0", *words, "--run-dir", "alike-weights")
        h.ok(ran.returncode == 0, f"copies of a model, {name}", ran.stderr)
    content = bytearray(late.read_bytes())
    content[-1] ^= 0x40
    late.write_bytes(content)
    for name, words in kinds.items():
        ran = bed.run(h.DSRUN, "-H", bed.hostfile, path, "checkpoint.every=0", *words, "--run-dir", "other-weights")
        h.ok(ran.returncode == 65 and "error: model.init.from '/tmp/model': other weights than those of rank 0" in ran.stderr
             and "rank 1 on node2 ended with code 65" in ran.stderr, f"one that is another, {name}", ran.stderr)


def run_dir(bed):
    """Parts of a checkpoint in folders of each host's own would be no checkpoint."""
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "--run-dir", "/tmp/own")
    h.ok(ran.returncode == 65 and "run directory '/tmp/own' on this host is not rank 0's: put 'run_dir' on a file system that "
         "all hosts share" in ran.stderr and "step 1/" not in ran.stdout, "a run directory of each host's own", ran.stdout + ran.stderr)
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "checkpoint.every=0", "--run-dir", "/tmp/unsaved")
    h.ok(ran.returncode == 0, "which is fine where nothing is saved", ran.stderr)
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, JOB, "--run-dir", "shared")
    left = [path.name for path in (h.work() / "shared" / "checkpoints").iterdir() if path.name.startswith(".")]
    h.ok(ran.returncode == 0 and not left, "one that all see, in which nothing is left", f"{left} {ran.stderr}")


def tokenized(bed):
    """Ranks of other hosts read the ids that dsrun made, and see it when these are not there."""
    words = (JOB, "checkpoint.every=0", f"data.tokenizer={h.ROOT / 'tests/reference/tokenizers/gpt2.json'}")
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, *words, "--run-dir", "ids")
    h.ok(ran.returncode == 0 and ran.stdout.count("tokens    data.") == 2 and "step 4/4" in ran.stdout, "ids made once for both hosts", ran.stdout + ran.stderr)
    ran = bed.run(h.DSRUN, "-H", bed.hostfile, *words, "--run-dir", "/tmp/ids")
    h.ok(ran.returncode == 2 and "data.train: no file matches '/tmp/ids/tokens/train-" in ran.stderr and "step 1/" not in ran.stdout,
         "ids that one host alone has", ran.stdout + ran.stderr)


going_on()
hosts()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
