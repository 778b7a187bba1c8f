# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""tokenize_text.py - text to ids on one core: dsrun data tokenize, against Hugging Face's tokenizers in this process.

Both read this project's sources as documents, twice over, as JSON lines on one core, with a tokenizer of 8,000
tokens trained on them; theirs is timed without reading and writing, ours with both and the start of the program.
Without the Python package `tokenizers` there is nothing to measure.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from common import Failed, goal, paired, pinned, run

ROUNDS, TIMES, VOCAB = 5, 2, 8000
NEED = 3.0
ROOT = pathlib.Path(__file__).resolve().parents[1]


def documents():
    listed = subprocess.run(["git", "ls-files", "*.c", "*.h", "*.md", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [(ROOT / name).read_text(encoding="utf-8") for name in listed.stdout.split()] * TIMES


def train(texts, path):
    import tokenizers
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts[:len(texts) // TIMES], tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.save(str(path))
    return tokenizers.Tokenizer.from_file(str(path))


def measure(context):
    name = "text to ids, one core, against Hugging Face's tokenizers"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        import tokenizers
    except ImportError:
        context.say(f"    no package 'tokenizers' for {sys.executable}: left out")
        return [], [goal(name, None, None, "MB/s", NEED)]
    texts = documents()
    size = sum(len(text.encode()) for text in texts)
    ours, theirs, whole = [], [], []
    with tempfile.TemporaryDirectory() as folder, pinned(1):
        folder = pathlib.Path(folder)
        tokenizer = train(texts, folder / "tokenizer.json")
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        for _ in range(2 if context.quick else ROUNDS):
            began = time.perf_counter()
            run([os.path.join(context.build, "bin", "dsrun"), "data", "tokenize", "-q", "--force", "--threads", "1", "--tokenizer",
                 str(folder / "tokenizer.json"), str(folder / "out.bin"), str(folder / "text.jsonl")])
            ours.append(size / (time.perf_counter() - began) / 1e6)
            began = time.perf_counter()
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            theirs.append(size / (time.perf_counter() - began) / 1e6)
            whole.append(sum(len(one.ids) + 1 for one in encoded))
        written = ((folder / "out.bin").stat().st_size - 1024) // 2
    if any(count != written for count in whole):
        raise Failed(f"{written} ids here and {whole[0]} there")
    rows = [{"name": who, "mb_per_s": round(statistics.median(s), 2), "samples": [round(x, 2) for x in s], "version": version}
            for who, s, version in (("dsrun", ours, ""), ("tokenizers", theirs, tokenizers.__version__))]
    for row in rows:
        context.say(f"    {row['name']:<12} {row['mb_per_s']:8.1f} MB/s")
    return rows, [goal(name, round(statistics.median(ours), 2), round(statistics.median(theirs), 2), "MB/s", NEED,
                       ratio=paired(ours, theirs))]
