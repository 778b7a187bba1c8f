#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""generate - dsrun generate through the real command line.

Greedy ids of the reference cases against a forward pass written here, in double, without a cache; then
where the prompt comes from, what is printed where, what a text ends for, and what is refused.
"""
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import time

import devices
import harness as h
import reference

TOKENIZER = h.ROOT / "tests" / "reference" / "tokenizers" / "gpt2.json"


def generate(*args, given=None, env=None):
    """dsrun generate, with these bytes on its standard input."""
    return subprocess.run([h.DSRUN, "generate", *map(str, args)], input=given if given is not None else b"",
                          capture_output=True, timeout=h.PATIENCE * 120, cwd=h.work(),
                          env=h.environment(**(env or {})), check=False)


def samples(*args, given=None):
    """The objects of --json; [] when it failed."""
    ran = generate("--json", "-q", *args, given=given)
    return [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []


# --- a model in double, without a cache -----------------------------------------------------------

class Model:
    """GPT-2 or Llama as Hugging Face defines them; weights of a folder of tests/reference/."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.llama = config["model_type"] == "llama"
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads") if self.llama \
            else ("n_embd", "n_layer", "n_head")
        self.hidden, self.layers, self.heads = (config[name] for name in names)
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.eps = config["rms_norm_eps" if self.llama else "layer_norm_epsilon"]
        self.theta = config.get("rope_theta", 10000.0)
        self.size = self.hidden // self.heads
        self.weight = {k.removeprefix("transformer.").removeprefix("model."): v
                       for k, v in h.safetensors(folder / "model.safetensors").items()}

    def matrix(self, name):
        (rows, columns), values = self.weight[name]
        return [values[i * columns:(i + 1) * columns] for i in range(rows)]

    def linear(self, name, x):
        """x W of a vector, + bias: W is [out, in] in Llama, [in, out] in GPT-2."""
        w = self.matrix(name + ".weight")
        if self.llama:
            return [sum(a * b for a, b in zip(row, x)) for row in w]
        out = list(self.weight[name + ".bias"][1])
        for a, row in zip(x, w):
            for j, b in enumerate(row):
                out[j] += a * b
        return out

    def norm(self, name, x):
        w = self.weight[name + ".weight"][1]
        if self.llama:
            scale = 1 / math.sqrt(sum(a * a for a in x) / len(x) + self.eps)
            return [a * scale * b for a, b in zip(x, w)]
        mean = sum(x) / len(x)
        scale = 1 / math.sqrt(sum((a - mean) ** 2 for a in x) / len(x) + self.eps)
        return [(a - mean) * scale * b + c for a, b, c in zip(x, w, self.weight[name + ".bias"][1])]

    def turn(self, x, position):
        """Rotary positions of every head of a row."""
        half, out = self.size // 2, list(x)
        for at in range(0, len(x), self.size):
            for i in range(half):
                angle = position * self.theta ** (-2 * i / self.size)
                a, b = x[at + i], x[at + half + i]
                out[at + i] = a * math.cos(angle) - b * math.sin(angle)
                out[at + half + i] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def attention(self, q, keys, values):
        out, group = [], self.heads // self.kv_heads
        for head in range(self.heads):
            mine = slice(head * self.size, (head + 1) * self.size)
            theirs = slice(head // group * self.size, (head // group + 1) * self.size)
            scores = [sum(a * b for a, b in zip(q[mine], k[theirs])) / math.sqrt(self.size) for k in keys]
            weights = [math.exp(s - max(scores)) for s in scores]
            for column in range(theirs.start, theirs.stop):
                out.append(sum(w * v[column] for w, v in zip(weights, values)) / sum(weights))
        return out

    def layer(self, i, rows):
        name = f"layers.{i}." if self.llama else f"h.{i}."
        keys, values, out = [], [], []
        for position, x in enumerate(rows):
            y = self.norm(name + ("input_layernorm" if self.llama else "ln_1"), x)
            if self.llama:
                q, k, v = (self.linear(f"{name}self_attn.{p}_proj", y) for p in "qkv")
                q, k = self.turn(q, position), self.turn(k, position)
            else:
                qkv = self.linear(name + "attn.c_attn", y)
                q, k, v = (qkv[j * self.hidden:(j + 1) * self.hidden] for j in range(3))
            keys.append(k)
            values.append(v)
            y = self.linear(name + ("self_attn.o_proj" if self.llama else "attn.c_proj"),
                            self.attention(q, keys, values))
            x = [a + b for a, b in zip(x, y)]
            y = self.norm(name + ("post_attention_layernorm" if self.llama else "ln_2"), x)
            if self.llama:
                gate, up = (self.linear(f"{name}mlp.{p}_proj", y) for p in ("gate", "up"))
                y = self.linear(name + "mlp.down_proj",
                                [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)])
            else:
                y = self.linear(name + "mlp.c_fc", y)
                y = [0.5 * a * (1 + math.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a ** 3))) for a in y]
                y = self.linear(name + "mlp.c_proj", y)
            out.append([a + b for a, b in zip(x, y)])
        return out

    def logits(self, ids):
        embed = self.matrix("embed_tokens.weight" if self.llama else "wte.weight")
        rows = [list(embed[i]) for i in ids]
        if not self.llama:
            rows = [[a + b for a, b in zip(row, place)] for row, place in zip(rows, self.matrix("wpe.weight"))]
        for i in range(self.layers):
            rows = self.layer(i, rows)
        last = self.norm("norm" if self.llama else "ln_f", rows[-1])
        head = self.matrix("lm_head.weight") if "lm_head.weight" in self.weight else embed
        return [sum(a * b for a, b in zip(row, last)) for row in head]

    def greedy(self, prompt, count):
        """Ids, and the least distance of a chosen logit to the next."""
        ids, margin = list(prompt), math.inf
        for _ in range(count):
            logits = self.logits(ids)
            best = max(range(len(logits)), key=logits.__getitem__)
            margin = min(margin, logits[best] - max(v for i, v in enumerate(logits) if i != best))
            ids.append(best)
        return ids[len(prompt):], margin


def greedy_ids():
    for case, prompt in (("gpt2-tiny", b"0123"), ("llama-tiny", b"abcd5"), ("llama-tied", bytes([1, 20, 7]))):
        folder, ckpt = reference.CASES / case, h.work() / case
        h.dsrun("ckpt", "import", folder, ckpt)
        want, margin = Model(folder).greedy(prompt, 8)
        got = samples(ckpt, "--temperature", 0, "--max-tokens", 8, given=prompt)
        h.ok(margin > 1e-4, f"{case}: the likeliest ids are so by far", margin)
        h.ok(len(got) == 1 and got[0]["tokens"] == want, f"{case}: greedy ids are those of a pass without a cache",
             (got, want))
        for kind in ("bf16", "fp16"):
            got = samples(ckpt, "--temperature", 0, "--max-tokens", 8, "--dtype", kind, given=prompt)
            h.ok(len(got) == 1 and len(got[0]["tokens"]) == 8, f"{case}: in {kind}, too", got)


# --- a run of bytes ---------------------------------------------------------------------------------

def prompts(run):
    first = generate(run, "--prompt", "the quick", "--max-tokens", 20)
    again = generate(run, "--prompt", "the quick", "--max-tokens", 20)
    h.ok(first.returncode == 0 and len(first.stdout) > 20, "text on standard output", first)
    h.ok(first.stdout == again.stdout, "the same bits twice", (first, again))
    h.ok(re.search(rb"^dsrun: prompt of 9 tokens in .* 20 tokens in .* tokens/s.*; ended by max-tokens", first.stderr) is not None,
         "rates on standard error", first.stderr)
    (h.work() / "prompt.txt").write_text("the quick\n")
    by_file = generate(run, "--prompt-file", "prompt.txt", "--max-tokens", 20)
    by_stdin = generate(run, "--max-tokens", 20, "-q", given=b"the quick\n")
    h.ok(by_file.stdout == first.stdout, "the prompt from a file, without its last newline", by_file)
    h.ok(by_stdin.stdout == first.stdout and by_stdin.stderr == b"", "from standard input; nothing more with -q", by_stdin)
    other = generate(run, "--prompt", "the quick", "--max-tokens", 20, "--seed", 1)
    h.ok(other.stdout != first.stdout, "another seed, another text", other)
    step = generate(run / "checkpoints" / "latest", "--prompt", "the quick", "--max-tokens", 20)
    h.ok(step.stdout == first.stdout, "the folder of a checkpoint for its run", step)


def printed(run):
    plain = samples(run, "--max-tokens", 20, given=b"the quick")
    many = samples(run, "--max-tokens", 20, "--count", 3, given=b"the quick")
    h.ok(len(many) == 3 and [s["sample"] for s in many] == [0, 1, 2], "an object for each sample", many)
    h.ok(many[:1] == plain and many[1]["tokens"] != many[2]["tokens"], "the first one does not depend on the others", many)
    h.ok(plain[0]["ended"] == "max-tokens" and plain[0]["prompt_tokens"] == 9 and plain[0]["step"] == 30,
         "what it says of itself", plain)
    h.ok(bytes(plain[0]["tokens"]).decode(errors="replace") == plain[0]["text"], "ids and text agree", plain)
    text = generate(run, "--max-tokens", 20, "--count", 2, "--echo", "-q", given=b"the quick").stdout.decode()
    want = "".join(("the quick" + s["text"]).removesuffix("\n") + "\n" + mark
                   for s, mark in zip(many, ("--- sample 1\n", "")))
    h.ok(text == want, "samples in text, each behind its prompt", (text, want))
    long = samples(run, "--max-tokens", 500, given=b"the quick")
    h.ok(long[0]["ended"] == "context" and len(long[0]["tokens"]) == 32 - 9 + 1, "the context is the end", long)
    letter = re.search("[!-~]", long[0]["text"][1:]).group()
    cut = samples(run, "--max-tokens", 500, "--stop", letter, "--count", 2, given=b"the quick")
    h.ok(cut[0]["ended"] == "stop" and cut[0]["text"] == long[0]["text"].split(letter)[0] and len(cut) == 2,
         "a text that stops it", cut)


def batched(run):
    """Prompts of a file, several samples at once: each what it is alone, in order."""
    texts = ["the quick", "a", "brown fox jumps over", "the quick brown"]
    lines = h.work() / "prompts.jsonl"
    lines.write_text("".join(json.dumps({"prompt": t, "id": 7}) + "\n\n" for t in texts))
    alone = [s for t in texts for s in samples(run, "--max-tokens", 20, "--count", 3, given=t.encode())]
    for batch in ((), ("--batch", 2), ("--batch", 5), ("--batch", 256)):
        got = samples(run, "--prompts", lines, "--max-tokens", 20, "--count", 3, *batch)
        h.ok([{**s, "prompt": 0} for s in got] == alone and [(s["prompt"], s["sample"]) for s in got] == [(i // 3, i % 3) for i in range(12)],
             f"{' '.join(map(str, batch)) or 'prompts of a file'}: the samples of each prompt alone", (got, alone))
    letter = re.search("[a-z]", alone[0]["text"][3:]).group()
    cut = [[{**s, "tokens": 0} for s in samples(run, "--prompts", lines, "--max-tokens", 20, "--count", 3, "--stop", letter, *batch)]
           for batch in ((), ("--batch", 5))]
    h.ok(cut[0] == cut[1] and any(s["ended"] == "stop" for s in cut[0]) and all(letter not in s["text"] for s in cut[0]), "and what stops them", cut)
    text = [generate(run, "--prompt", "the quick", "--echo", "--count", 4, "--max-tokens", 20, "-q", *batch).stdout for batch in ((), ("--batch", 3))]
    h.ok(text[0] == text[1] and text[0].count(b"the quick") == 4, "text of a batch, in order and behind its prompt", text)
    lines.write_text(json.dumps({"question": "the quick"}) + "\n")
    h.ok(samples(run, "--prompts", lines, "--key", "question", "--max-tokens", 20) == alone[:1], "the key of the prompts", alone[:1])
    ran = generate(run, "--prompts", lines, "--key", "question", "--json", "--count", 5, "--batch", 5, "--max-tokens", 8)
    h.ok(re.search(rb"^dsrun: prompt of 9 tokens in .*; 40 tokens in .* tokens/s, .* GB/s of parameters; ended by max-tokens\n$", ran.stderr) is not None,
         "rates of a batch", ran.stderr)


def terminal(run):
    """Bytes drawn evenly: on a terminal nothing of them moves the cursor."""
    main, side = pty.openpty()
    command = [h.DSRUN, "generate", str(run), "--prompt", "x", "--temperature", "1000", "--max-tokens", "31", "--count",
               "40", "-q"]
    ran = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=side, stderr=side, env=h.environment())
    os.close(side)
    shown = b""
    while True:
        try:
            more = os.read(main, 65536)
        except OSError:
            break
        if not more:
            break
        shown += more
    os.close(main)
    text = shown.replace(b"\r\n", b"\n")
    bad = [b for b in text if (b < 0x20 and b not in b"\n\t") or b == 0x7f]
    h.ok(ran.wait(60) == 0 and len(text) > 1000 and not bad, "control characters are escaped on a terminal", bad[:20])
    h.ok(b"\\x1b" in text and text.decode() is not None, "and so are bytes of no character", text[:200])


def endings(run):
    command = f"'{h.DSRUN}' generate '{run}' --prompt x --count 100000 -q | head -c 30"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, timeout=120, env=h.environment(), check=False)
    h.ok(len(ran.stdout) == 30 and ran.stderr == b"", "a reader that goes away is no error", ran)
    h.ok(not h.left(), "nothing is left then", h.left(0))
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([h.DSRUN, "generate", run, "--prompt", "x", "-q"], stdout=full, stderr=subprocess.PIPE,
                             env=h.environment(), timeout=120, check=False)
    h.ok(ran.returncode == 1 and b"cannot write to standard output: No space left" in ran.stderr, "a full disk is one", ran)
    for number, code, said in ((signal.SIGINT, -signal.SIGINT, b""), (signal.SIGKILL, 137, b"killed by signal 9")):
        job = subprocess.Popen([h.DSRUN, "generate", str(run), "--prompt", "x", "--count", "1000000", "-q"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=h.environment())
        end, worker = time.monotonic() + 60, None
        while worker is None and time.monotonic() < end:
            worker = next((p for p, line in h.processes().items() if "dsrun-worker generate" in line), None)
            time.sleep(0.01)
        os.kill(job.pid if number == signal.SIGINT else worker, number)
        stderr = job.communicate(timeout=60)[1]
        h.ok(job.returncode == code and said in stderr, f"signal {number.name}", (job.returncode, stderr))
        h.ok(not h.left(), f"nothing is left after {number.name}", h.left(0))


def wrong(run):
    (h.work() / "latin1.txt").write_bytes(b"caf\xe9")
    (h.work() / "job.txt").write_text("name: [")
    for name, text in (("list", "[1]\n"), ("number", '{"prompt": "x"}\n{"prompt": 1}\n'), ("long", json.dumps({"prompt": "x" * 33})),
                       ("broken", '\n{"prompt"\n'), ("blank", " \n\n"), ("nobody", '{"prompt": ""}\n')):
        (h.work() / f"{name}.jsonl").write_text(text)
    table = (
        *(((run, "--json", "--prompts", f"{name}.jsonl"), b"", code, said) for name, code, said in (
            ("list", 65, r"'list.jsonl':1: there is no key 'prompt'; name the right one with --key"), ("number", 65, r"'number.jsonl':2: key 'prompt' is not a string"),
            ("long", 2, r"'long.jsonl':1: the prompt has 33 tokens"), ("broken", 65, r"'broken.jsonl':2: "), ("blank", 2, r"'blank.jsonl' has no prompts"),
            ("nobody", 2, r"'nobody.jsonl':1: the prompt is empty"), ("none", 2, r"'none.jsonl'"))),
        ((run, "--prompts", "list.jsonl"), b"", 2, r"'--prompts' needs '--json'"),
        ((run, "--prompts", "list.jsonl", "--json", "--prompt", "x"), b"", 2, r"'--prompts' and '--prompt' exclude each other"),
        ((run, "--prompt", "x", "--chat", "chatml"), b"", 2, r"'--chat': the ids of this model are bytes, which have no form; leave it out"),
        ((run, "--prompt", "x", "--key", "text"), b"", 2, r"'--key' is for '--prompts'"),
        ((run, "--prompt", "x", "--batch", "257"), b"", 2, r"'--batch' must be a whole number between 1 and 256"),
        ((run,), b"", 2, r"the prompt is empty, and there is no token that a text begins behind"),
        ((run, "--prompt", "x" * 33), b"", 2, r"the prompt has 33 tokens, and the model's context is 32"),
        ((h.work() / "none", "--prompt", "x"), b"", 2, r"there is no checkpoint or run directory '.*none'"),
        ((h.work(), "--prompt", "x"), b"", 2, r"is neither a checkpoint nor a run directory"),
        ((run, "--prompt-file", "none.txt"), b"", 2, r"'none.txt'"),
        ((run, "--prompt", "x", "--prompt-file", "prompt.txt"), b"", 2, r"exclude each other"),
        ((run, "--prompt", "x", "--temperature", "hot"), b"", 2, r"'--temperature' must be a number"),
        ((run, "--prompt", "x", "--top-p", "0"), b"", 2, r"'--top-p' must be more than 0"),
        ((run, "--prompt", "x", "--top-p", "1.1"), b"", 2, r"'--top-p' must be a number between 0 and 1"),
        ((run, "--prompt", "x", "--top-k", "0"), b"", 2, r"'--top-k'"),
        ((run, "--prompt", "x", "--count", "0"), b"", 2, r"'--count' must be at least 1"),
        ((run, "--prompt", "x", "--echo", "--json"), b"", 2, r"exclude each other"),
        ((run, "--prompt", "x", "--eot", "</s>"), b"", 2, r"the ids of this model are bytes"),
        ((run, "--prompt", "x", "--dtype", "fp8"), b"", 2, r"'--dtype' must be 'fp32', 'bf16' or 'fp16'"),
        ((run, "--prompt", "x", "--device", "tpu"), b"", 2, r"'--device' must be 'cpu' or 'cuda', not 'tpu'"),
        ((run, "--prompt", "x", "--slots", "2"), b"", 2, r"option '--slots' does not go with 'generate'"),
        ((run, "--prompt", "x", "--tokenizer", "none.json"), b"", 2, r"'none.json'"),
        ((run, "--prompt-file", "latin1.txt", "--tokenizer", TOKENIZER), b"", 65,
         r"byte 3 of the prompt begins no character of UTF-8"),
        ((h.work() / "llama-tied", ), b"A", 65, r"token 0 of the prompt has the id 65, and the model has ids up to 28"),
    )
    for args, given, code, said in table:
        ran = generate(*args, given=given)
        errors = ran.stderr.decode()
        h.ok(ran.returncode == code and re.search(said, errors) and errors.count("\n") == 1 and not ran.stdout,
             f"refused: {said}", ran)
    ran = generate(run, "--prompt", "x", env={"DSRUN_LIBEXEC": str(h.work())})
    h.ok(ran.returncode == 2 and b"install all of dsrun" in ran.stderr, "no worker", ran)


def damaged(run):
    for name, code in (("weights-00001-of-00001.safetensors", 65), ("manifest.json", 65)):
        copy = h.work() / ("damaged-" + name)
        shutil.copytree(run, copy, symlinks=True)
        path = copy / "checkpoints" / "latest" / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
        ran = generate(copy, "--prompt", "x")
        h.ok(ran.returncode == code and name.encode() in ran.stderr and ran.stderr.count(b"\n") == 1 and not ran.stdout,
             f"one bit of {name}", ran)
    copy = h.work() / "record"
    shutil.copytree(run, copy, symlinks=True)
    (copy / "job.yaml").write_text("name: [")
    ran = generate(copy, "--prompt", "x")
    h.ok(ran.returncode == 65 and b"job.yaml:" in ran.stderr, "a job.yaml that cannot be read, with its place", ran)


# --- a run with a tokenizer -------------------------------------------------------------------------

def tokenized():
    job = h.write_job("tokens.yaml", steps=2, every=2, name="tokens")
    text = job.read_text().replace("data: {", f"data: {{tokenizer: {TOKENIZER}, ")
    job.write_text(text)
    run = h.work() / "runs" / "tokens"
    ran = h.dsrun(job)
    if not h.ok(ran.returncode == 0, "a run with a tokenizer", ran.stdout + ran.stderr):
        return
    vocab = json.loads(TOKENIZER.read_text())
    size = 1 + max([*vocab["model"]["vocab"].values(), *(t["id"] for t in vocab["added_tokens"])])
    got = samples(run, "--max-tokens", 20, "--temperature", 5, "--count", 3, given="Grüße, fox".encode())
    h.ok(len(got) == 3 and all(s["text"] and max(s["tokens"]) < size for s in got), "its own tokenizer is found", got)
    empty = samples(run, "--max-tokens", 5)
    h.ok(len(empty) == 1 and empty[0]["prompt_tokens"] == 1, "an empty prompt begins behind a separator", empty)
    apart = h.work() / "apart"
    shutil.copytree(run / "checkpoints" / "step-00000002", apart)
    ran = generate(apart, "--prompt", "fox")
    h.ok(ran.returncode == 2 and b"name its tokenizer.json with '--tokenizer'" in ran.stderr,
         "a checkpoint without its run needs one", ran)
    again = samples(apart, "--tokenizer", TOKENIZER, "--max-tokens", 20, "--temperature", 5, given="Grüße, fox".encode())
    h.ok(again == got[:1], "and gives the same with it", again)
    token = got[0]["tokens"][3]
    ended = next((t for t, i in vocab["model"]["vocab"].items() if i == token), None)
    if ended is not None and token not in got[0]["tokens"][:3]:
        cut = samples(run, "--eot", ended, "--max-tokens", 20, "--temperature", 5, given="Grüße, fox".encode())
        h.ok(cut[0]["ended"] == "end-of-text" and cut[0]["tokens"] == got[0]["tokens"][:3], "a token that ends a text", cut)
    ran = generate(run, "--prompt", "fox", "--eot", "no such token")
    h.ok(ran.returncode == 2 and b"has no token 'no such token'" in ran.stderr, "one that there is not", ran)
    (run / "tokenizer.json").unlink()
    ran = generate(run, "--prompt", "fox")
    h.ok(ran.returncode == 2 and b"tokenizer.json" in ran.stderr, "its copy has gone", ran)


def on_devices(run):
    """The kernels of GPUs under their emulation, behind the doubles of CUDA's libraries."""
    none = generate(run, "--prompt", "x", "--device", "cuda")
    if not (h.BUILD / "libexec" / "dsrun" / "dsrun-cuda.so").exists():
        h.ok(none.returncode == 2 and b"built without CUDA" in none.stderr and not none.stdout, "no plug-in", none)
    if not (devices.FAKES / "dsrun-cuda.so").exists():
        h.skip("on a device", "the emulation switches stacks on x86-64 and aarch64 only, and not under sanitizers")
        return
    libexec = {"DSRUN_LIBEXEC": str(devices.FAKES)}
    for case, prompt in (("gpt2-tiny", b"0123"), ("llama-tiny", b"abcd5"), ("llama-tied", bytes([1, 20, 7]))):
        args = (h.work() / case, "--temperature", 0, "--max-tokens", 8, "--json", "-q")
        ran = generate(*args, "--device", "cuda", given=prompt, env=libexec)
        h.ok(ran.returncode == 0 and ran.stdout == generate(*args, given=prompt).stdout, f"{case} on a device: the same ids",
             ran)
    args = (run, "--prompt", "the quick", "--max-tokens", 10, "--count", 2, "--device", "cuda", "-q")
    first, again, both = (generate(*args, *more, env=libexec) for more in ((), (), ("--batch", 2)))
    h.ok(first.returncode == 0 and first.stdout == again.stdout, "on a device: the same bits twice", (first, again))
    h.ok(both.stdout == first.stdout, "on a device: both at once", both)
    for name, value, code, said in (("FAKE_CUDA_DEVICES", "0", 1, b"no GPU that this process may use"),
                                    ("FAKE_CUDA_MEMORY", str(100 << 20), 65, b"the model needs"),
                                    ("FAKE_CUDA_MEMORY", str(30 << 20), 65, b"is another process on it")):
        ran = generate(*args, env={**libexec, name: value})
        h.ok(ran.returncode == code and said in ran.stderr and not ran.stdout, f"on a device: {said.decode()}", ran)


greedy_ids()
bytes_job = h.write_job(steps=30, every=30)
trained = h.work() / "runs" / "tiny"
if h.ok(h.dsrun(bytes_job).returncode == 0, "a run of bytes"):
    prompts(trained)
    printed(trained)
    batched(trained)
    terminal(trained)
    endings(trained)
    wrong(trained)
    damaged(trained)
    on_devices(trained)
tokenized()
h.done()
