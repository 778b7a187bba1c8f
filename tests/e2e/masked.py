#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""masked - prompts and completions: samples with a mask are made of JSON lines, and a job learns the completions alone; what
fills up has no effect, a batch without targets is told, and masks that are wrong are refused."""
import array
import json
import random
import struct

import harness as h

GPT2 = h.ROOT / "tests" / "reference" / "tokenizers" / "gpt2.json"
VOCAB, END = 901, 900
SEQUENCE, BATCH, LINES = 24, 8, 160
LETTERS = "abcdefghijklmnopqrstuvwxyz"
chance = random.Random(3)


def write_lines(name, pairs, keys=("prompt", "completion")):
    path = h.work() / name
    path.write_text("".join(json.dumps(dict(zip(keys, pair))) + "\n" for pair in pairs))
    return path


# What a prompt says cannot be foreseen; what it ends in is the answer.
PAIRS = [("".join(chance.choice(LETTERS) for _ in range(chance.randrange(3, 14))) + str(digit := chance.randrange(10)), f" {digit}!")
         for _ in range(LINES)]
SOURCE = write_lines("pairs.jsonl", PAIRS)
SAMPLES = h.work() / "pairs.safetensors"



def read(path=SAMPLES):
    """(rows of ids, rows of the mask)"""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8:8 + size])
    (rows, length), data = head["tokens"]["shape"], raw[8 + size:]
    (begin, end), (first, last) = head["tokens"]["data_offsets"], head["loss_mask"]["data_offsets"]
    ids, mask = array.array("H", data[begin:end]), data[first:last]
    return ([list(ids[i * length:(i + 1) * length]) for i in range(rows)], [list(mask[i * length:(i + 1) * length]) for i in range(rows)])


def write(name, rows, mask, kind="U8", shape=None):
    data = array.array("H", [number for row in rows for number in row]).tobytes()
    more = bytes(number for row in mask for number in row)
    head = {"tokens": {"dtype": "U16", "shape": [len(rows), len(rows[0])], "data_offsets": [0, len(data)]},
            "loss_mask": {"dtype": kind, "shape": shape or [len(rows), len(rows[0])], "data_offsets": [len(data), len(data) + len(more)]}}
    text = json.dumps(head).encode()
    path = h.work() / name
    path.write_bytes(struct.pack("<Q", len(text)) + text + data + more)
    return path


JOB = h.write_job(steps=60, batch=BATCH, every=0, sequence=SEQUENCE, context=32)


def train(name, data, *words, slots=1, steps=60):
    return h.dsrun("--slots", slots, "--run-dir", h.work() / name, JOB, f"data.train={data}", "data.valid=[]", f"model.vocab={VOCAB}",
                   f"train.steps={steps}", "schedule.steps=60", "optim.lr=1e-2", *words)


def made():
    ran = h.dsrun("data", "tokenize", "--tokenizer", GPT2, "--sequence", SEQUENCE, "--prompt-key", "prompt", SAMPLES, SOURCE)
    rows, mask = read()
    h.ok(ran.returncode == 0 and f"{LINES} samples of {SEQUENCE + 1} tokens" in ran.stdout and len(rows) == LINES, "a sample for each line", ran.stdout + ran.stderr)
    good = all(m[0] == 0 and sum(m) > 1 and row[max(i for i, one in enumerate(m) if one)] == END
               and all(number == END for number in row[max(i for i, one in enumerate(m) if one):]) for row, m in zip(rows, mask))
    h.ok(good, "targets end with the separator, and behind it nothing counts")
    ran = h.dsrun("data", "inspect", "--tokenizer", GPT2, "--count", SEQUENCE + 1, SAMPLES)
    shown = " ".join(str(number) if one else f"[{number}]" for number, one in zip(rows[0], mask[0]))
    h.ok(ran.returncode == 0 and f"samples     {LINES} of {SEQUENCE + 1} ids, for train.sequence {SEQUENCE}\n" in ran.stdout
         and f"targets     {sum(map(sum, mask))} of {LINES * SEQUENCE}\n" in ran.stdout and f"from 0      {shown}\n" in ran.stdout
         and f"text        {PAIRS[0][0]}{PAIRS[0][1]}<|endoftext|>" in ran.stdout, "inspect shows what is trained on", ran.stdout + ran.stderr)
    before = SAMPLES.read_bytes()
    for threads in (1, 3):
        h.dsrun("data", "tokenize", "--tokenizer", GPT2, "--force", "--sequence", SEQUENCE, "--prompt-key", "prompt", "--threads", threads, SAMPLES, SOURCE)
        h.ok(SAMPLES.read_bytes() == before, f"the same file with {threads} threads")
    other = write_lines("other.jsonl", PAIRS, ("question", "answer"))
    h.dsrun("data", "tokenize", "--tokenizer", GPT2, "--force", "--sequence", SEQUENCE, "--prompt-key", "question", "--key", "answer", SAMPLES, other)
    h.ok(SAMPLES.read_bytes() == before, "under other keys")


def learned():
    """With prompts that cannot be foreseen a loss near 0 is one of completions alone."""
    rows, mask = read()
    ran = train("masked", SAMPLES, f"data.valid={SAMPLES}", "eval.every=60", "eval.batches=4")
    losses = [m["loss"] for m in h.metrics(h.work() / "masked")]
    valid = json.loads((h.work() / "masked" / "metrics.jsonl").read_text().splitlines()[-1])["valid_loss"]
    h.ok(ran.returncode == 0 and losses[0] > 6 and losses[-1] < 1.5 and valid < 1.5, "the loss of completions falls", f"{losses[0]}, {losses[-1]}, {valid} {ran.stderr}")
    prompts = write("prompts.safetensors", rows, [[1 - one if i < row.index(END) else 0 for i, one in enumerate(m)] for row, m in zip(rows, mask)])
    ran = train("prompts", prompts)
    last = h.metrics(h.work() / "prompts")[-1]["loss"]
    h.ok(ran.returncode == 0 and last > 2.5, "that of prompts does not", f"{last} {ran.stderr}")
    filled = [[number if i <= row.index(END) else chance.randrange(END) for i, number in enumerate(row)] for row in rows]
    ran = train("filled", write("filled.safetensors", filled, mask))
    h.ok(ran.returncode == 0 and h.metric_texts(h.work() / "filled") == h.metric_texts(h.work() / "masked"), "what fills up has no effect", ran.stderr)
    for slots, words in ((2, ["zero.stage=2"]), (4, ["train.micro_batch=2"]), (2, ["parallel.sequence=2"]), (2, ["parallel.tensor=2"]), (2, ["parallel.pipeline=2"])):
        name = f"{slots}-{words[0]}"
        ran = train(name, SAMPLES, *words, slots=slots, steps=5)
        got = [m["loss"] for m in h.metrics(h.work() / name)]
        h.ok(ran.returncode == 0 and len(got) == 5 and all(abs(a - b) < 1e-4 * b for a, b in zip(got, losses)), f"{slots} ranks, {words[0]}", f"{got} {ran.stderr}")


    for slots in (1, 2):
        ran = train(f"shuffled-{slots}", SAMPLES, "data.order=shuffle", slots=slots, steps=5)
        h.ok(ran.returncode == 0, f"shuffled on {slots}", ran.stderr)
    one, two = ([m["loss"] for m in h.metrics(h.work() / f"shuffled-{slots}")] for slots in (1, 2))
    h.ok(all(abs(a - b) < 1e-4 * b for a, b in zip(one, two)) and any(abs(a - b) > 1e-3 * b for a, b in zip(one, losses)), "in an order of their own", f"{one} {two}")


def empty():
    """Of the third step nothing is a target."""
    rows, mask = read()
    none = [[0] * (SEQUENCE + 1) if 2 * BATCH <= i < 3 * BATCH else m for i, m in enumerate(mask)]
    data = write("none.safetensors", rows, none)
    ran = train("none", data, steps=6, slots=2)
    steps = h.metrics(h.work() / "none")
    h.ok(ran.returncode == 0 and steps[2]["loss"] == 0 and steps[2]["grad_norm"] == 0 and [m["skipped"] for m in steps] == [0, 0, 1, 1, 1, 1],
         "a batch without targets is skipped", f"{steps} {ran.stderr}")
    events = (h.work() / "none" / "events.jsonl").read_text()
    h.ok("step 2: 'loss_mask' leaves no token as a target, update skipped" in events, "and told", events)
    first = train("resumed", data, "checkpoint.every=1", steps=3, slots=2)
    then = train("resumed", data, "checkpoint.every=1", steps=6, slots=2)
    h.ok(first.returncode == 0 and then.returncode == 0 and h.metric_texts(h.work() / "resumed") == h.metric_texts(h.work() / "none"),
         "a run that goes on behind it has the same numbers", first.stderr + then.stderr)
    ran = train("blind", SAMPLES, f"data.valid={write('blind.safetensors', rows, [[0] * (SEQUENCE + 1)] * LINES)}", "eval.every=2", steps=2)
    last = json.loads((h.work() / "blind" / "metrics.jsonl").read_text().splitlines()[-1])
    h.ok(ran.returncode == 0 and last["valid_loss"] == 0 and "data.valid: 'loss_mask' leaves no token" in (h.work() / "blind" / "events.jsonl").read_text(),
         "an evaluation without targets", f"{last} {ran.stderr}")


SMALL = f"""\
name: packed
model: {{arch: llama, layers: 2, hidden: 32, heads: 2, ffn: 64, context: 64, vocab: {VOCAB}}}
data: {{train: none, separator: {END}}}
train: {{steps: 1, global_batch: 1, micro_batch: 1, sequence: 64}}
checkpoint: {{every: 0}}
launch: {{device: cpu, threads: 1}}
"""


def packed():
    """Samples side by side, which do not see each other: the loss over all their targets is that of a sequence for each."""
    few, size, losses = PAIRS[:12], 64, {}
    source, job = write_lines("few.jsonl", few), h.work() / "small.yaml"
    job.write_text(SMALL)
    words = ("data", "tokenize", "--tokenizer", GPT2, "--force", "--sequence", size, "--prompt-key", "prompt")
    for name, more in (("single", ()), ("packed", ("--pack",))):
        data = h.work() / f"{name}.safetensors"
        ran = h.dsrun(*words, *more, data, source)
        (rows, mask), before = read(data), data.read_bytes()
        h.dsrun(*words, *more, "--threads", 3, data, source)
        h.ok(ran.returncode == 0 and data.read_bytes() == before, f"{name}: the same file with 3 threads", ran.stderr)
        for documents in ("apart", "together"):
            ran = h.dsrun("--run-dir", h.work() / f"{name}-{documents}", job, f"data.train={data}", f"data.documents={documents}",
                          f"train.global_batch={len(rows)}")
            losses[name, documents] = h.metrics(h.work() / f"{name}-{documents}")[0]["loss"]
            h.ok(ran.returncode == 0, f"{name}, {documents}", ran.stderr)
        mixed = h.work() / f"{name}-gemma3"  # of whose layers one has a window, and the other has none
        ran = h.dsrun("--run-dir", mixed, job, f"data.train={data}", "data.documents=apart", f"train.global_batch={len(rows)}",
                      "model.arch=gemma3", "model.window=5", "model.full_every=2")
        losses[name, "gemma3"] = h.metrics(mixed)[0]["loss"] if ran.returncode == 0 else 0
    used = sum(row.index(END) + 1 for row in read(h.work() / "single.safetensors")[0])
    fewest = -(-used // (size + 1))
    h.ok(fewest <= len(rows) <= fewest + 1 and sum(map(sum, mask)) == sum(map(sum, read(h.work() / "single.safetensors")[1])), "few rows, as many targets",
         f"{len(rows)} {fewest}")
    ran = h.dsrun(*words, "--pack", h.work() / "packed.safetensors", source)
    h.ok(f"12 samples in {len(rows)} sequences of {size + 1} tokens, 0 of them cut, {used} tokens, {100 * used / len(rows) / (size + 1):.1f}% full, " in ran.stdout,
         "and it says so", ran.stdout)
    one = losses["single", "apart"]
    h.ok(abs(losses["packed", "apart"] - one) < 1e-5 * one and abs(losses["packed", "together"] - one) > 1e-5 * one, "the loss of samples that are alone", losses)
    one = losses["single", "gemma3"]
    h.ok(abs(losses["packed", "gemma3"] - one) < 1e-5 * one, "and where some layers have a window, too", losses)
    ran = h.dsrun(*words, "--pack", h.work() / "packed.safetensors", write_lines("inside.jsonl", [("a<|endoftext|>b", "c")]))
    h.ok(ran.returncode == 0 and "1 samples have the separator within" in ran.stderr, "a separator within is told", ran.stderr)


def refused():
    rows, mask = read()
    wrong = [list(m) for m in mask]
    wrong[3][7] = 2
    for name, data, says in (("value", write("value.safetensors", rows, wrong), "mask 2 at byte"),
                             ("type", write("type.safetensors", rows, mask, kind="I8"), "tensor 'loss_mask' is I8, it must be U8 or BOOL"),
                             ("shape", write("shape.safetensors", rows, mask, shape=[LINES * (SEQUENCE + 1)]), "it must be [160, 25], as 'tokens' is")):
        ran = train(f"wrong-{name}", data, steps=2, slots=2)
        h.ok(ran.returncode == 65 and says in ran.stderr, f"a mask of a wrong {name}", f"{ran.returncode} {ran.stderr}")
    long = write_lines("long.jsonl", [(PAIRS[0][0] * 20, "x")])
    text = h.text_file()
    sized = ("--sequence", SEQUENCE)
    for words, code, says in ((["--prompt-key", "prompt", h.work() / "a.safetensors", SOURCE], 2, "'--prompt-key' needs '--sequence'"),
                              ([*sized, h.work() / "a.bin", SOURCE], 2, "ends in '.safetensors'"),
                              ([*sized, "--prompt-key", "prompt", h.work() / "a.safetensors", long], 65, "none of 1 documents has anything to train on"),
                              ([*sized, "--prompt-key", "question", h.work() / "a.safetensors", SOURCE], 65, "there is no key 'question'; name the right one with --prompt-key"),
                              (["--pack", "out.bin", SOURCE], 2, "'--pack' needs '--sequence'"),
                              ([*sized, "--pack", "--eot", "none", h.work() / "a.safetensors", SOURCE], 2, "'--pack' needs a token between samples"),
                              ([*sized, h.work() / "a.safetensors", text], 65, "samples are of JSON lines"),
                              ([*sized, "--prompt-key", "prompt", SAMPLES, SOURCE], 2, "is there already")):
        ran = h.dsrun("data", "tokenize", "--tokenizer", GPT2, *words)
        h.ok(ran.returncode == code and says in ran.stderr and not list(h.work().glob("a.*")), f"tokenize refuses: {says}", f"{ran.returncode} {ran.stderr}")


made()
learned()
packed()
empty()
refused()
h.done()
