#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""chat - messages of JSON lines become samples of which the assistant's are trained on, with the ids of transformers' chat
templates; packed, cut, refused by name, and trained on."""
import array
import json
import struct
import sys

import harness as h

FOLDER = h.ROOT / "tests" / "reference"
sys.path.insert(0, str(FOLDER / "chat"))
import make  # noqa: E402

CASES = json.loads((FOLDER / "chat" / "cases.json").read_text(encoding="utf-8"))
SEQUENCE = 400
OUT = h.work() / "out.safetensors"


def tokenizer(form):
    path = h.work() / f"{form}.json"
    path.write_text(json.dumps(make.derived(CASES[form]["tokenizer"], CASES[form]["added"])), encoding="utf-8")
    return path


def lines(name, talks, key="messages"):
    path = h.work() / name
    path.write_text("".join(json.dumps({key: talk}) + "\n" for talk in talks), encoding="utf-8")
    return path


def tokenize(form, source, *words, sequence=SEQUENCE):
    return h.dsrun("data", "tokenize", "--tokenizer", tokenizer(form), "--chat", form, "--sequence", sequence, "--force", *words, OUT, source)


def read():
    raw = OUT.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8:8 + size])
    (rows, length), data = head["tokens"]["shape"], raw[8 + size:]
    (begin, end), (first, last) = head["tokens"]["data_offsets"], head["loss_mask"]["data_offsets"]
    ids, mask = array.array("H", data[begin:end]), data[first:last]
    return [list(zip(ids[i * length:(i + 1) * length], mask[i * length:(i + 1) * length])) for i in range(rows)]


def wanted(case):
    """Ids with their mask; the first is no target."""
    return list(zip(case["ids"], [0, *case["mask"][1:]]))


def forms():
    for form, shape in CASES.items():
        cases = [case for case in shape["cases"] if any(wanted(case)[i][1] for i in range(len(case["ids"])))]
        source = lines(f"{form}.jsonl", [case["messages"] for case in shape["cases"]])
        ran = tokenize(form, source, "--eot", "none")
        rows = read()
        good = len(rows) == len(cases) and all(row[:len(case["ids"])] == wanted(case) and not any(m for _, m in row[len(case["ids"]):])
                                               for row, case in zip(rows, cases))
        h.ok(ran.returncode == 0 and good, f"{form}: ids and masks of {len(cases)} conversations", ran.stdout + ran.stderr)
        before = OUT.read_bytes()
        tokenize(form, source, "--eot", "none", "--threads", 5)
        h.ok(OUT.read_bytes() == before, f"{form}: the same file with 5 threads")


def separated():
    """The separator stands behind a conversation, is not trained on, and is not said twice."""
    for form, twice in (("chatml", False), ("mistral", True)):
        case = CASES[form]["cases"][0]
        ran = tokenize(form, lines("one.jsonl", [case["messages"]]))
        row, count = read()[0], len(case["ids"])
        h.ok(ran.returncode == 0 and row[:count] == wanted(case) and row[count][1] == 0 and (row[count][0] == row[count - 1][0]) == twice
             and row[count][0] == row[-1][0], f"{form}: behind it what fills up", row[:count + 2])


def packed():
    cases = [case for case in CASES["chatml"]["cases"] if any(case["mask"])]
    source = lines("all.jsonl", [case["messages"] for case in cases] * 3)
    ran = tokenize("chatml", source, "--pack")
    end = read()[0][-1][0]
    found = sorted(len(part) for row in read() for part in split(row, end))
    want = sorted(len(case["ids"]) + 1 for case in cases * 3)
    h.ok(ran.returncode == 0 and f"{len(want)} samples in {len(read())} sequences" in ran.stdout and found == want, "packed, each whole", f"{found} {want} {ran.stdout}")
    ran = h.dsrun("data", "inspect", "--tokenizer", tokenizer("chatml"), OUT)
    h.ok(ran.returncode == 0 and f"targets     {3 * sum(sum(case['mask']) for case in cases)} of " in ran.stdout, "with all targets", ran.stdout)
    job = h.work() / "job.yaml"
    job.write_text(f"""\
name: chat
model: {{arch: llama, layers: 1, hidden: 32, heads: 2, ffn: 64, context: {SEQUENCE}, vocab: 403}}
data: {{train: {OUT}, documents: apart, separator: {end}}}
train: {{steps: 20, global_batch: 2, micro_batch: 1}}
optim: {{lr: 1.0e-2}}
launch: {{device: cpu, threads: 1}}
""")
    ran = h.dsrun(job)
    losses = [m["loss"] for m in h.metrics(h.work() / "runs" / "chat")]
    h.ok(ran.returncode == 0 and losses[-1] < losses[0] - 1, "and learned", f"{losses} {ran.stderr}")


def answered():
    """A model that has learned some answers by heart gives them, asked in its form, each to its question."""
    talks = [make.talk("one?", "two"), make.talk("a", "b", "c", "dead"), make.talk("x", "why", system="Be brief.")]
    source = lines("few.jsonl", talks)
    tokenize("chatml", source, "--eot", "none", sequence=64)
    job = h.work() / "answers.yaml"
    job.write_text(f"""\
name: answers
model: {{arch: llama, layers: 1, hidden: 64, heads: 4, ffn: 128, context: 80, vocab: 403}}
data: {{train: {OUT}}}
train: {{steps: 60, global_batch: 3, micro_batch: 3, sequence: 64}}
optim: {{lr: 1.0e-2}}
checkpoint: {{every: 60}}
launch: {{device: cpu, threads: 1}}
""")
    ran, run = h.dsrun(job), h.work() / "runs" / "answers"
    if not h.ok(ran.returncode == 0, "three answers are learned", ran.stderr):
        return
    words = ("generate", run, "--chat", "chatml", "--tokenizer", tokenizer("chatml"), "--temperature", 0, "--max-tokens", 16, "-q")
    ran = h.dsrun(*words, "--prompt", "one?")
    h.ok(ran.stdout == "two\n", "what a user says is answered, and ends", ran)
    ran = h.dsrun(*words, "--prompt", "one?", "--echo")
    h.ok(ran.stdout == "<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\ntwo\n", "as the model sees it", ran)
    ran = h.dsrun(*words, "--prompts", source, "--json", "--batch", 2)
    got = [json.loads(line) for line in ran.stdout.splitlines()]
    h.ok([(g["text"], g["ended"]) for g in got] == [(talk[-1]["content"], "end-of-text") for talk in talks], "conversations, whose last answer is made anew", ran)
    asked = lines("asked.jsonl", ["one?", [{"role": "user", "content": "one?"}]], "question")
    ran = h.dsrun(*words, "--prompts", asked, "--key", "question", "--json")
    h.ok([json.loads(line)["text"] for line in ran.stdout.splitlines()] == ["two"] * 2, "a text is what a user says", ran)
    for more, code, says in ((("--prompts", lines("odd.jsonl", [7])), 65, "odd.jsonl':1: key 'messages' is not a string and no list of messages"),
                             (("--prompts", lines("nobody.jsonl", [[]])), 65, "nobody.jsonl':1: there is no message to answer"),
                             (("--tokenizer", h.ROOT / "tests" / "reference" / "tokenizers" / "qwen.json"), 2, "'--chat chatml': the tokenizer has no token '<|im_start|>'")):
        ran = h.dsrun(*words, "--json", *more)
        h.ok(ran.returncode == code and says in ran.stderr and not ran.stdout, f"refused: {says}", ran)


def split(row, end):
    """The samples of a sequence, with their separators; what fills up is left out."""
    part, parts = [], []
    for number, target in row:
        part.append(number)
        if number == end:
            parts += [part] if len(part) > 1 else []
            part = []
    return parts + ([part] if part else [])


def refused():
    talk = CASES["chatml"]["cases"][0]["messages"]
    source, plain = lines("talk.jsonl", [talk]), h.ROOT / "tests" / "reference" / "tokenizers" / "qwen.json"
    odd = lines("odd.jsonl", [talk, [{"role": "tool", "content": "x"}]])
    for words, code, says in ((["--tokenizer", plain, "--chat", "chatml", "--sequence", 9, OUT, source], 2,
                               f"'{plain}': '--chat chatml': the tokenizer has no token '<|im_start|>', '<|im_end|>'"),
                              (["--tokenizer", plain, "--chat", "jinja", "--sequence", 9, OUT, source], 2, "'--chat' must be 'chatml', 'llama3', "),
                              (["--tokenizer", plain, "--chat", "chatml", OUT, source], 2, "'--chat' needs '--sequence'"),
                              (["--tokenizer", plain, "--chat", "chatml", "--prompt-key", "p", "--sequence", 9, OUT, source], 2, "leave '--prompt-key' out"),
                              (["--tokenizer", tokenizer("chatml"), "--chat", "chatml", "--sequence", 9, OUT, odd], 65,
                               "odd.jsonl':2: message 1: '--chat chatml' has no role 'tool', only system, user, assistant"),
                              (["--tokenizer", tokenizer("chatml"), "--chat", "chatml", "--sequence", 9, "--key", "talk", OUT, source], 65,
                               "talk.jsonl':1: there is no key 'talk'; name the right one with --key"),
                              (["--tokenizer", tokenizer("chatml"), "--chat", "chatml", "--sequence", 9, OUT, lines("flat.jsonl", ["hello"])], 65,
                               "flat.jsonl':1: key 'messages' is not a list of messages"),
                              (["--tokenizer", tokenizer("chatml"), "--chat", "chatml", "--sequence", 9, OUT, source], 65, "none of 1 documents has anything to train on")):
        OUT.unlink(missing_ok=True)
        ran = h.dsrun("data", "tokenize", *words)
        h.ok(ran.returncode == code and says in ran.stderr and not OUT.exists(), f"refused: {says[-50:]}", f"{ran.returncode} {ran.stderr}")


forms()
separated()
packed()
answered()
refused()
h.done()
