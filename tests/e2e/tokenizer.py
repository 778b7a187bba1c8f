#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""tokenizer - dsrun data tokenize has the ids of Hugging Face's tokenizers, whatever the threads, and leaves a whole file or
none; dsrun data inspect says what is in it; and a job trains on it.

What their tokenizers make of the texts of tests/reference/tokenizers/ is kept there; where the package is installed, it is
asked about this project's own sources, too.
"""
import array
import json
import os
import random
import signal
import subprocess
import time

import harness as h

FOLDER = h.ROOT / "tests" / "reference" / "tokenizers"
GPT2 = FOLDER / "gpt2.json"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
OUT = h.work() / "out.bin"
ODD = h.work() / "odd.bin"
ODD.write_bytes(b"abc")


def tokenize(tokenizer, *words, out=OUT):
    return h.dsrun("data", "tokenize", "--tokenizer", tokenizer, "--force", out, *words)


def ids_of(path=OUT):
    """The ids of a file with llm.c's header."""
    raw = path.read_bytes()
    head = array.array("i", raw[:1024])
    ids = array.array({1: "H", 7: "I"}[head[1]], raw[1024:])
    assert head[0] == 20240520 and head[2] == len(ids)
    return list(ids)


def lines(name, texts, key="text", ascii_only=True):
    path = h.work() / name
    path.write_text("".join(json.dumps({key: text}, ensure_ascii=ascii_only) + "\n" for text in texts), encoding="utf-8")
    return path


def kept_ids():
    for name in sorted(CASES[0]["ids"]):
        path = lines("cases.jsonl", [case["text"] for case in CASES], ascii_only=name == "gpt2")
        ran = tokenize(FOLDER / f"{name}.json", "--eot", "none", path)
        want = [number for case in CASES for number in case["ids"][name]]
        h.ok(ran.returncode == 0 and ids_of() == want, f"{name}: the ids of {len(CASES)} texts", ran.stdout + ran.stderr)


def threads():
    text = h.work() / "long.txt"
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((h.ROOT / "docs").glob("*.md"))) * 8
    text.write_text(source, encoding="utf-8")
    many = lines("many.jsonl", source.split("\n\n"))
    for name in ("gpt2", "llama2", "qwen"):
        made = []
        for count in (1, 2, 7):
            ran = tokenize(FOLDER / f"{name}.json", "--threads", count, "--eot", "none", text, many)
            made.append((ran.returncode, OUT.read_bytes()))
        h.ok(made[0][0] == 0 and made[0] == made[1] == made[2], f"{name}: 1, 2 and 7 threads write the same {text.stat().st_size} bytes of text")
    ran = tokenize(GPT2, text, many)
    documents = 1 + source.count("\n\n") + 1
    h.ok(f"{documents} documents, " in ran.stdout and ids_of().count(900) == documents, "a separator behind each document", ran.stdout)


def refused():
    bad, broken, nokey = h.work() / "bad.txt", h.work() / "broken.jsonl", lines("nokey.jsonl", ["a"], key="body")
    bad.write_bytes(b"good\n\xc3(\n")
    broken.write_text('{"text": "a"}\n{"text": \n')
    unigram = h.work() / "unigram.json"
    unigram.write_text('{"model": {"type": "Unigram", "vocab": []}}')
    shape = json.loads(GPT2.read_text(encoding="utf-8"))
    unmarked = h.work() / "unmarked.json"
    unmarked.write_text(json.dumps(shape | {"added_tokens": []}))
    lower = h.work() / "lower.json"
    lower.write_text(json.dumps(shape | {"normalizer": {"type": "Lowercase"}}))
    OUT.unlink(missing_ok=True)
    for words, code, says in (
            ([GPT2, bad], 65, "bad.txt': byte 5 is not valid UTF-8"), ([GPT2, broken], 65, "broken.jsonl':2: column "),
            ([GPT2, nokey], 65, "nokey.jsonl':1: there is no key 'text'; name the right one with --key"),
            ([GPT2, h.work() / "missing.txt"], 2, "missing.txt': No such file"), ([h.work() / "none.json", bad], 2, "none.json': No such file"),
            ([GPT2, h.work()], 65, "is a folder; name the files in it"), ([unigram, bad], 65, "a model of type 'Unigram' is not supported, only 'BPE'"),
            ([lower, bad], 65, "normalizer 'Lowercase' is not supported, only "), ([bad, bad], 65, "tokenizer '"),
            ([unmarked, bad], 2, "name it with --eot, or say '--eot none'"), ([GPT2, "--eot", "<|none|>", bad], 2, "has no token '<|none|>'"),
            ([GPT2, "--format", "csv", bad], 2, "'--format' must be 'auto', 'text' or 'jsonl'"), ([GPT2, "--threads", "0", bad], 2, "'--threads'")):
        ran = tokenize(*words)
        h.ok(ran.returncode == code and says in ran.stderr and not OUT.exists(), f"refused with {code}: {says}", f"{ran.returncode} {ran.stderr}")
    ran = h.dsrun("data", "tokenize", OUT, bad)
    h.ok(ran.returncode == 2 and "no tokenizer is given; name one with '--tokenizer FILE'" in ran.stderr, "no tokenizer", ran.stderr)
    ran = h.dsrun("data", "tokenize", "--tokenizer", GPT2, OUT)
    h.ok(ran.returncode == 2 and "a word is missing" in ran.stderr, "no input", ran.stderr)


def files():
    text = h.text_file()
    OUT.write_text("precious")
    ran = h.dsrun("data", "tokenize", "--tokenizer", GPT2, OUT, text)
    h.ok(ran.returncode == 2 and "is there already; take another name, or --force to replace it" in ran.stderr and OUT.read_text() == "precious",
         "a file that is there stays", ran.stderr)
    ran = tokenize(GPT2, "-q", text)
    h.ok(ran.returncode == 0 and not ran.stdout + ran.stderr, "or is replaced, without a word with -q", ran.stdout + ran.stderr)
    ran = tokenize(GPT2, "--format", "jsonl", "--key", "body", lines("text.dat", ["one", "two"], key="body"))
    h.ok(ran.returncode == 0 and "2 documents" in ran.stdout, "--format and --key", ran.stdout + ran.stderr)
    ran = tokenize(FOLDER / "unknown.json", "--eot", "none", text)
    h.ok(ran.returncode == 0 and "characters have no token" not in ran.stderr, "an unknown token takes what has none", ran.stderr)
    large = h.work() / "large.json"
    shape = json.loads(GPT2.read_text(encoding="utf-8"))
    shape["model"]["vocab"] |= {f"filler{number}": number for number in range(900, 65537)}
    shape["added_tokens"] = []
    large.write_text(json.dumps(shape))
    ran = tokenize(large, "--eot", "filler65536", text)
    h.ok(ran.returncode == 0 and "tokens of 4 bytes" in ran.stdout and ids_of()[-1] == 65536, "more than 65536 ids take 4 bytes", ran.stdout + ran.stderr)


def interrupted():
    pipe, out = h.work() / "pipe", h.work() / "never.bin"
    os.mkfifo(pipe)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with subprocess.Popen([h.DSRUN, "data", "tokenize", "--tokenizer", str(GPT2), str(out), str(pipe)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=h.environment()) as run:
            with open(pipe, "w", encoding="utf-8") as feed:
                feed.write("text\n" * 1000)
                feed.flush()
                end = time.monotonic() + 60
                while not list(h.work().glob("never.bin.tmp*")) and time.monotonic() < end:
                    time.sleep(0.01)
                run.send_signal(number)
                ended = run.wait(60)
        h.ok(ended == code and not list(h.work().glob("never.bin*")), f"{number.name}: {code}, and nothing is left", ended)
    with subprocess.Popen([h.DSRUN, "data", "tokenize", "--tokenizer", str(GPT2), str(out), str(pipe)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=h.environment()) as run:
        end = time.monotonic() + 60
        while not list(h.work().glob("never.bin.tmp*")) and time.monotonic() < end:
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        run.wait(60)
    h.ok(run.returncode == 143 and not list(h.work().glob("never.bin*")), "the same while nobody writes into the pipe", run.returncode)


def inspected():
    tokenize(GPT2, lines("two.jsonl", ["one <b>two</b>\n\x1b[31m", "three"]))
    ran = h.dsrun("data", "inspect", OUT, "--tokenizer", GPT2)
    count = len(ids_of())
    h.ok(ran.returncode == 0 and f"tokens      {count}\n" in ran.stdout and "separator   '<|endoftext|>', id 900, 2 times" in ran.stdout
         and "header of llm.c, 2 bytes an id" in ran.stdout and f"{len(set(ids_of()))} distinct, the largest 900" in ran.stdout
         and "text        one <b>two</b>\\x0a\\x1b[31m<|endoftext|>three" in ran.stdout, "inspect, with the text escaped", ran.stdout + ran.stderr)
    ran = h.dsrun("data", "inspect", OUT, "--at", count - 3, "--count", 2)
    h.ok(f"from {count - 3:<6} {' '.join(map(str, ids_of()[-3:-1]))}\n" in ran.stdout and "text" not in ran.stdout, "a part of it, without a tokenizer", ran.stdout)
    for words, code, says in (([OUT, "--at", count], 2, f"'--at' {count} is beyond the last of {count} ids"), ([h.work() / "no.bin"], 2, "No such file"),
                              ([OUT, "--eot", "x"], 2, "'--eot' needs '--tokenizer'"), ([ODD], 65, "no whole number of 2-byte ids")):
        ran = h.dsrun("data", "inspect", *words)
        h.ok(ran.returncode == code and says in ran.stderr, f"inspect refuses: {says}", f"{ran.returncode} {ran.stderr}")


def trained():
    tokenize(GPT2, h.text_file())
    job = h.write_job(steps=2, every=0)
    ran = h.dsrun(job, f"data.train={OUT}", "data.valid=[]", "model.vocab=901", "run_dir=trained")
    h.ok(ran.returncode == 0 and len(h.metrics(h.work() / "trained")) == 2, "a job trains on it", ran.stdout + ran.stderr)


def jobs():
    """A job that names the tokenizer has the numbers of one that reads the file of data tokenize, and makes the ids once."""
    text, run = h.text_file(), h.work() / "named"
    tokenize(GPT2, text)
    job = h.write_job(steps=4, every=2)
    words = [job, f"data.tokenizer={GPT2}", "schedule.steps=4"]
    ran = h.dsrun(job, f"data.train={OUT}", f"data.valid={OUT}", "model.vocab=901", "eval.every=2", "run_dir=files")
    made = h.dsrun(*words, "eval.every=2", "run_dir=named", "--slots", 1)
    kept = sorted((run / "tokens").iterdir())
    same = (h.metric_texts(h.work() / "files"), len(kept), (run / "tokenizer.json").read_bytes())
    h.ok(ran.returncode == 0 and made.returncode == 0 and (h.metric_texts(run), 2, GPT2.read_bytes()) == same
         and kept[0].read_bytes() == OUT.read_bytes() and "tokens    data.train: " in made.stdout, "the same as with a file of ids", made.stdout + made.stderr)
    before = [(path.name, path.stat().st_mtime_ns) for path in kept]
    again = h.dsrun(*words, "run_dir=named", "train.steps=5")
    h.ok(again.returncode == 0 and "tokens    " not in again.stdout and before == [(path.name, path.stat().st_mtime_ns) for path in sorted((run / "tokens").iterdir())],
         "a second start makes nothing", again.stdout + again.stderr)
    two = h.dsrun(*words, "run_dir=two", "--slots", 2)
    h.ok(two.returncode == 0 and sorted(path.name for path in (h.work() / "two" / "tokens").iterdir()) == [path.name for path in kept], "two ranks", two.stderr)
    apart = h.dsrun(*words, "data.documents=apart", "run_dir=apart")
    ids = ids_of()
    h.ok(apart.returncode == 0 and h.metric_texts(h.work() / "apart") != h.metric_texts(run), "documents apart: other losses", apart.stderr)
    h.ok(f"separator: {ids[-1]}" in (h.work() / "apart" / "job.yaml").read_text(), "which end with the tokenizer's separator", ids[-1])
    ran = h.dsrun("ckpt", "export", "named", "hf")
    h.ok(ran.returncode == 0 and (h.work() / "hf" / "tokenizer.json").read_bytes() == GPT2.read_bytes(), "the tokenizer is in what ckpt export makes", ran.stderr)
    configs = [json.loads((h.work() / "hf" / name).read_text()) for name in ("config.json", "generation_config.json")]
    tokens = {token["content"]: token["id"] for token in json.loads(GPT2.read_text())["added_tokens"]}
    h.ok(all(config["bos_token_id"] == config["eos_token_id"] == tokens["<|endoftext|>"] and "pad_token_id" not in config for config in configs),
         "its ids with a meaning, too", configs)
    ran = h.dsrun("check", *words, "model.vocab=900")
    h.ok(ran.returncode == 65 and "model.vocab=900': tokenizer '" in ran.stderr and "has 901 ids" in ran.stderr, "check sees a vocabulary that is too small", ran.stderr)
    ran = h.dsrun("--dry-run", *words, "run_dir=dry")
    h.ok(ran.returncode == 0 and "vocabulary 901" in ran.stdout and not (h.work() / "dry").exists(), "--dry-run makes nothing", ran.stdout + ran.stderr)
    for more, code, says in (("model.vocab=900", 65, "has 901 ids, and 'model.vocab' is 900; it must be at least that"), ("data.train=missing.txt", 2, "missing.txt"),
                             (f"data.tokenizer={FOLDER / 'cases.json'}", 65, "cases.json"), (f"data.train={OUT}", 65, "'data.tokenizer' is for text"),
                             (f"data.train={ODD.with_suffix('.txt')}", 65, "data.train: '")):
        ODD.with_suffix(".txt").write_bytes(b"ok\n\xff")
        ran = h.dsrun(*words, more, "run_dir=wrong")
        h.ok(ran.returncode == code and says in ran.stderr and "step 1" not in ran.stdout, f"a job is refused: {says}", f"{ran.returncode} {ran.stderr}")


def asked():
    """Hugging Face's tokenizers themselves, where they are: this project's sources, and texts of random characters."""
    try:
        import tokenizers
    except ImportError:
        h.skip("ids of Hugging Face's tokenizers themselves", "the Python package 'tokenizers' is not installed")
        return
    chance = random.Random(1)
    pieces = [case["text"] for case in CASES] + [" ", "\n", "\t", "a", "1", "'s", "<l>", "word", "é", "你", "\u0301", "😀", ","]
    texts = ["".join(chance.choice(pieces)[:chance.randrange(1, 9)] for _ in range(chance.randrange(60))) for _ in range(3000)]
    texts += ["".join(chr(chance.choice((chance.randrange(0x20, 0x7f), chance.randrange(0xa0, 0x3000), chance.randrange(0x3000, 0xa000))))
                      for _ in range(40)) for _ in range(500)]
    texts = [text for text in texts if not any(tokenless(character) for character in text)]
    texts += [path.read_text(encoding="utf-8") for path in sorted((h.ROOT / "base").glob("*.c"))]
    path = lines("asked.jsonl", texts)
    for name in sorted(CASES[0]["ids"]):
        tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / f"{name}.json"))
        ran = tokenize(FOLDER / f"{name}.json", "--eot", "none", path)
        want = [number for text in texts for number in tokenizer.encode(text, add_special_tokens=False).ids]
        h.ok(ran.returncode == 0 and ids_of() == want, f"{name}: asked about {len(texts)} texts", ran.stdout + ran.stderr)


def tokenless(character):
    """Characters that one of the two libraries may know from a newer Unicode."""
    import unicodedata
    return unicodedata.category(character) == "Cn" or 0xd800 <= ord(character) < 0xe000


kept_ids()
threads()
refused()
files()
interrupted()
inspected()
trained()
jobs()
asked()
h.ok(not h.left(), "nothing is left running", h.left())
h.done()
